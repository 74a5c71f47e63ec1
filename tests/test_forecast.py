"""A forecast of a card: its arithmetic in closed form, and what a program's text says of bytes."""

import sys

import pytest
from conftest import ROOT

sys.path.append(str(ROOT / "benchmarks"))
import forecast
import hlo

MODULE = """HloModule jit_f, is_scheduled=true

%fused_rows (param_0.1: f32[1000,8], param_1: s32[4], param_2: f32[8]) -> f32[4,8] {
  %param_1 = s32[4]{0} parameter(1)
  %param_0.1 = f32[1000,8]{1,0} parameter(0)
  %bitcast.9 = f32[1000,8]{1,0} bitcast(%param_0.1)
  %gather.1 = f32[4,8]{1,0} gather(%bitcast.9, %param_1), offset_dims={1}
  %param_2 = f32[8]{0} parameter(2)
  %broadcast.1 = f32[4,8]{1,0} broadcast(%param_2), dimensions={1}
  ROOT %add.1 = f32[4,8]{1,0} add(%gather.1, %broadcast.1)
}

ENTRY %main (a.1: f32[1000,8], b.1: s32[4], c.1: f32[8]) -> (f32[4,8], bf16[2]) {
  %a.1 = f32[1000,8]{1,0} parameter(0)
  %b.1 = s32[4]{0} parameter(1)
  %c.1 = f32[8]{0} parameter(2)
  %rows = f32[4,8]{1,0} fusion(%a.1, %b.1, /*index=2*/%c.1), kind=kLoop, calls=%fused_rows
  ROOT %sums = (f32[4,8]{1,0}, bf16[2]{0}) custom-call(%rows, %a.1), custom_call_target="x"
}
"""


def test_a_kernel_reads_of_a_table_what_it_looks_up():
    program = hlo.Program(MODULE)
    rows = 4 * 8 * 4
    assert program.traffic("rows") == rows + (rows + 4 * 4 + 8 * 4)
    assert program.traffic("sums") == (rows + 2 * 2) + (rows + 1000 * 8 * 4)
    assert program.traffic("unknown") == 0


def test_the_least_is_the_largest_part_and_the_most_is_the_sum():
    costs = {k: (c.low, c.high) for k, c in forecast.COSTS.items()}
    many = forecast.Counts(200, 3, 2, 1, flops=1e9, least_bytes=1e6, bytes=5e8)
    least, most = forecast.seconds(many, peak=1e14, bandwidth=4e12)
    low, high = (
        200 * costs["launch"][i]
        + 3 * costs["launch_alone"][i]
        + 2 * costs["buffer"][i]
        + costs["conditional"][i]
        for i in (0, 1)
    )
    assert least == pytest.approx(low)
    assert most == pytest.approx(high + 5e8 / (0.7 * 4e12) + 1e9 / (0.15 * 1e14))
    # The arithmetic, then the memory, is what takes longest.
    assert forecast.seconds(many._replace(flops=1e11), 1e14, 4e12)[0] == pytest.approx(1e-3)
    assert forecast.seconds(many._replace(least_bytes=8e9), 1e14, 4e12)[0] == pytest.approx(2e-3)
    again = forecast.seconds(many._replace(calls=1.0), 1e14, 4e12)
    assert again == pytest.approx((least + costs["call"][0], most + costs["call"][1]))


def test_a_range_is_given_for_both_cards_and_the_faster_memory_is_no_slower():
    counts = forecast.Counts(100, 0, 1, 0, flops=1e10, least_bytes=4e9, bytes=4e9)
    found = forecast.on_cards(counts, "tf32", 8, "seed_updates_per_second")
    for card, bandwidth in (("H100", 3.35e12), ("H200", 4.8e12)):
        least, most = found[card]["us"]
        assert least == pytest.approx(1e6 * 4e9 / bandwidth, rel=5e-3)
        slow, fast = found[card]["seed_updates_per_second"]
        assert (slow, fast) == pytest.approx((8e6 / most, 8e6 / least), rel=1e-2)
    assert found["H200"]["us"] < found["H100"]["us"]


def test_every_constant_has_its_source_and_its_order():
    for cost in forecast.COSTS.values():
        assert 0 < cost.low < cost.high and cost.source
    assert all(0 < share < 1 for share in forecast.SHARES.values())
