"""A command's exit code is its own, whatever ends its process."""

import subprocess
import sys

SCRIPT = """
import atexit, ctypes, os, signal, sys
from tokensieve.cli.supervision import supervised

def late():
    atexit.register(os._exit, 0)
    sys.exit(1)

ends = [
    (lambda: None, 0),
    (lambda: sys.exit(0), 0),
    (lambda: sys.exit(), 0),
    (lambda: sys.exit(2), 2),
    (lambda: sys.exit("no"), 1),
    (lambda: 1 / 0, 1),
    (late, 1),
    (lambda: os._exit(0), 1),
    (lambda: os._exit(7), 7),
    (lambda: ctypes.string_at(0), 139),
    (lambda: os.kill(os.getpid(), signal.SIGKILL), 137),
    (lambda: os.kill(os.getppid(), signal.SIGTERM) or signal.pause(), 143),
]
first = os.getpid()
for number, (end, code) in enumerate(ends):
    try:
        supervised(end)
    except SystemExit as found:
        if os.getpid() != first:
            raise
        assert found.code == code, (number, found.code, code)
        for one in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(one, signal.SIG_DFL)
print("all", len(ends))
"""


def test_the_exit_code_is_that_of_the_command():
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=False, timeout=120)
    assert done.stdout == "all 12\n", done.stderr
    assert done.stderr.count("the command was ended before it was done") == 1
    assert done.stderr.count("the command was ended by signal") == 3
