"""Everything between a user and a result, checked, with what to do where something is wrong.

check.py    what a check is
machine.py  this machine: versions, the embedded server's parts, folders, configuration, proxies
server.py   the server: reachable, described, one real inference per metric, shared memory, deadlines
"""
