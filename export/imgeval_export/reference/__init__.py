"""The upstream way of computing every metric: open_clip, segment-anything, KeyBERT and pyiqa, one model after another.

Nothing of imgeval's own arithmetic is used here. It is the oracle of `imgeval-export verify` and the baseline of the
benchmarks, and needs the packages of the extra `verify`.
"""
