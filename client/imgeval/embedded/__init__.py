"""A real Triton server on this machine, from the `nvidia-pytriton` wheel: no container, no GPU, loopback only.

paths.py       where things lie
runtime.py     the wheel's binary, its backend folder and its environment
server.py      start, stop, find, check
supervisor.py  the process that owns one tritonserver and stops it
launch.py      profile -> repository (built if need be) -> running server
cli.py         imgeval-server
"""
