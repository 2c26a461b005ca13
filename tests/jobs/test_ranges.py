"""Ranges are sets of numbers: every function on them does what sets do."""

import random

import pytest

from sdejax.jobs.ranges import NumberRange, blocks, merged, total_size, without


def numbers(ranges):
    return [number for one in ranges for number in one.numbers]


def some(draw):
    firsts = [draw.randrange(60) for _ in range(draw.randrange(6))]
    return [NumberRange(first, first + draw.randrange(9)) for first in firsts]


@pytest.mark.parametrize("seed", range(50))
def test_ranges_are_sets(seed):
    # Rejects an end that is off by one, ranges that touch and are not merged, and overlaps that count twice.
    draw = random.Random(seed)
    wanted, done = some(draw), some(draw)
    assert numbers(merged(wanted)) == sorted(set(numbers(wanted)))
    assert all(a.last + 1 < b.first for a, b in zip(merged(wanted), merged(wanted)[1:], strict=False))
    left = without(wanted, done)
    assert numbers(left) == sorted(set(numbers(wanted)) - set(numbers(done)))
    assert total_size(left) == len(numbers(left))
    size = draw.randrange(1, 8)
    cut = list(blocks(left, size))
    assert numbers(cut) == numbers(left)
    assert all(block.first // size == block.last // size for block in cut)


def test_blocks_of_the_rest_are_blocks_of_the_whole():
    # If whole blocks are done, the others keep their numbers, so their files have the same names.
    whole = list(blocks([NumberRange(3, 99)], 10))
    left = list(blocks(without([NumberRange(3, 99)], [whole[2], whole[5]]), 10))
    assert left == [block for block in whole if block not in (whole[2], whole[5])]
    assert whole[0].name == "0000000003-0000000009"
