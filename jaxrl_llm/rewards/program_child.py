"""Runs one program on one test, within limits: the process that `rewards/programs.py` starts, of the standard library.

Command: python program_child.py PROGRAM SECONDS MEMORY_BYTES OUTPUT_BYTES [FUNCTION] < input > output

What the program prints is the output; or, of a FUNCTION, what it returns, as JSON. The output that is expected is not
known here, so no program can print what it has not computed.
"""

import contextlib
import json
import os
import signal
import sys

NO_PROGRAM = 97  # exit status: it does not compile
# What contests have imported: code that a problem starts with says List[int] without an import.
MODULES = ["string", "re", "datetime", "collections", "heapq", "bisect", "copy", "math", "random", "statistics"]
MODULES += ["itertools", "functools", "operator", "io", "sys", "json", "typing", "builtins"]  # whose pow and open stay
PRELUDE = "\n".join([f"from {module} import *" for module in MODULES] + [f"import {module}" for module in MODULES])
RECURSION = 50_000  # calls, of which contests allow as many
DIGITS = 50_000  # of an integer that is printed


def limit(seconds: float, memory: int, output: int) -> None:
    """CPU time (twice, for a program may stop a timer), address space, and bytes of a file that it writes."""
    import resource  # not on Windows

    for kind, value in (
        (resource.RLIMIT_CPU, int(seconds) + 2),
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_FSIZE, output),
        (resource.RLIMIT_CORE, 0),
    ):
        most = resource.getrlimit(kind)[1]
        value = value if most == resource.RLIM_INFINITY else min(value, most)
        with contextlib.suppress(ValueError, OSError):  # the system knows no such limit
            resource.setrlimit(kind, (value, value))
    signal.signal(signal.SIGPROF, signal.SIG_DFL)  # ends the process
    signal.setitimer(signal.ITIMER_PROF, seconds)


def returned(names: dict, function: str, text: str) -> str:
    """What the function, or the method of the class Solution, returns for arguments that are JSON, one a line."""
    owner = names.get("Solution")
    call = names[function] if owner is None else getattr(owner(), function)
    return json.dumps(call(*[json.loads(line) for line in text.split("\n") if line.strip()]))


def main(path: str, seconds: str, memory: str, output: str, function: str | None = None) -> None:
    with open(path, encoding="utf-8") as file:
        text = file.read()
    names: dict = {"__name__": "__main__" if function is None else "solution"}
    exec(PRELUDE, names)
    sys.setrecursionlimit(RECURSION)
    sys.set_int_max_str_digits(DIGITS)
    limit(float(seconds), int(memory), int(output))
    try:
        program = compile(text, "program.py", "exec")
    except (SyntaxError, ValueError):  # the second: a null byte
        sys.exit(NO_PROGRAM)
    if function is None:
        with contextlib.suppress(SystemExit):  # as good an end as any other
            exec(program, names)
        return
    given = sys.stdin.read()
    results = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what it prints on its way
    exec(program, names)
    print(returned(names, function, given), file=results, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
