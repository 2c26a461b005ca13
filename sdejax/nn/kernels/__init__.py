"""Operations in the form that XLA's CPU backend computes fastest, each beside the plain formula that it computes.

A kernel and its formula give the same values and derivatives up to rounding (tests/nn/test_kernels.py). The layers
read as the formulas and choose the kernels. What each saves is measured in docs/benchmarks.md.
"""
