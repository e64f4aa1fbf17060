"""`make gpu`: everything that only a GPU can show, in stages that cannot waste its minutes.

    make gpu                      # 8 minutes
    make gpu GPU_MINUTES=20       # more of what is left out at 8
    make gpu-offline              # the wheels to carry to a machine without a package index
    python -m benchmarks.gpu --help

| file | what it holds |
|---|---|
| stages.py | what is run, in which order, for how long |
| schedule.py | the clock: how long each may take, what a failure means, what need not be run again |
| processes.py | one command with a limit: stopped politely, then for good, with all that it started |
| passed.py | a plugin of pytest that keeps what passed, so that a second run leaves it out |
| device_report.py | the first seconds: what the machine is, and one call of every operator |
| environment.py | a Python with torch, and the packages that are missing, with or without an index |

Nothing but Python's own library is imported by what runs the stages: a torch that does not load is a stage that fails.
"""
