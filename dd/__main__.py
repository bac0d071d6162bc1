"""``python -m dd STAGE``: every rule of the workflow runs one such command; so can a person.

If Snakemake has started a fork server, the command is carried out there, and this process waits for
it. So it imports next to nothing before it knows.
"""

from __future__ import annotations

import sys

from dd.runtime import fork_server


def _carry_out() -> int:
    from dd.command import run_as_process

    return run_as_process()


def _main() -> int:
    if sys.argv[1:2] == [fork_server.COMMAND] and len(sys.argv) == 4:  # by `fork_server.start`
        return fork_server.serve(sys.argv[2], int(sys.argv[3]), _carry_out)
    status = fork_server.carried_out(sys.argv[1:])
    return _carry_out() if status is None else status


if __name__ == "__main__":
    sys.exit(_main())
