"""``python -m mooring``: a worker process, started by the service. Settings come on standard input.

Exit codes: 0 ended as told; 3 the settings cannot be read; 4 anything else that mooring itself did wrong.
"""

from __future__ import annotations

import sys

from mooring.process import program

if __name__ == "__main__":
    given = sys.stdin.buffer.read()
    program.leave_standard_input()
    program.run(given)
