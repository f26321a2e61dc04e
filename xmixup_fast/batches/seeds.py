"""Seeds of everything random, derived from the run's seed."""

from __future__ import annotations

from enum import IntEnum


class SeedUse(IntEnum):
    """What random numbers are used for: hashed with the seed, so that the numbers of two uses are unrelated."""

    EPOCH = 0
    STEP = 1
    HEAD = 2
    LAYERS = 3
    CLASSES = 4
    SOURCE_HEAD = 5
    STATISTICS = 6


def hash_integers(*words: int) -> int:
    """A 64-bit hash of integers: each is added to the state, which then goes through splitmix64 (Steele et al. 2014).

    Seeds that differ by one, as those of consecutive steps, so become unrelated.
    """
    mask = 2**64 - 1
    state = 0
    for word in words:
        state = (state + word + 0x9E3779B97F4A7C15) & mask
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & mask
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & mask
        state ^= state >> 31
    return state
