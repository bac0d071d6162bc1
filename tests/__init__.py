"""Tests, in folders as the package's; what several of them use is in support/."""

import pytest

pytest.register_assert_rewrite("tests.support")  # a failed assertion there says what it compared
