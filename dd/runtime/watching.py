"""What sees the operations that torch carries out."""

from __future__ import annotations

from torch.utils._python_dispatch import TorchDispatchMode


class Watching(TorchDispatchMode):
    """A mode without the mark that torch sets for its compiler, which it would import for it."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False
