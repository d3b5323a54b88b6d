"""Published weight files -> model repositories that Triton serves.

data.py        where the project's data files lie, in a checkout and in an installed package
weights.py     weight files: find, check, fetch
profile.py     what a profile is; profiles.py has them by name
starter.py     the artefacts of the starter profile
configs.py     typed model configurations -> config.pbtxt
models.py      the catalogue of composing models
repository.py  artefacts + configurations -> a complete model repository
cli.py         imgeval-export
"""
