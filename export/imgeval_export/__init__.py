"""Published weight files -> model repositories that Triton serves.

data.py        where the project's data files lie, in a checkout and in an installed package
weights.py     weight files: find, check, fetch
profiles.py    what each profile is made of
starter.py     the artefacts of the starter profile
configs.py     typed model configurations -> config.pbtxt
graph_*.py ... ONNX graphs written from weight files, one file per model
repository.py  artefacts + configurations -> a complete model repository
cli.py         imgeval-export
"""
