"""A fork server whose processes write down what they are, then wait as long as asked.

It imports the libraries of a job only if ``SPY_LIBRARIES`` is set: most tests ask for none of them.
"""

import json
import os
import sys
import time
from pathlib import Path

from dd.runtime import fork_server


def carry_out() -> int:
    """Stands for the command line of the suite."""
    facts = {
        "pid": os.getpid(),
        "environment": dict(os.environ),
        "argv": sys.argv[1:],
        "modules": [name for name in sys.modules if name in ("torch", "pandas", "dd.command")],
        "threads": len(os.listdir("/proc/self/task")),
    }
    Path(os.environ["SPY"]).write_text(json.dumps(facts))
    print("seen", flush=True)
    end = time.monotonic() + float(os.environ["SPY_WAITS"])
    while time.monotonic() < end:
        time.sleep(0.05)  # in pieces: a signal that comes just before a sleep is seen after it
    return int(os.environ["SPY_STATUS"])


if __name__ == "__main__":
    if "SPY_LIBRARIES" not in os.environ:
        fork_server.KINDS = dict.fromkeys(fork_server.KINDS, ())
    sys.exit(fork_server.serve(sys.argv[2], int(sys.argv[3]), carry_out))
