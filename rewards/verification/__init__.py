"""Verify that each reward computes what its authors' code computes.

`contract.check(reward)` checks what every reward promises. `parity` compares a reward with a second
computation of its recipe (`references/`) or with the official package (`official/`), and with mutants, which
must fail.
"""
