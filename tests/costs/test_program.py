"""What is read from a program's text, against counts by hand and by tracing."""

import jax
import jax.numpy as jnp
import pytest

from jaxdenoise.config import ModelConfig
from jaxdenoise.costs.collectives import Collective
from jaxdenoise.costs.hlo import Array, parse
from jaxdenoise.costs.program import Costs, program_costs
from jaxdenoise.errors import UserError
from tests.costs.counting import PREDICTED, SHAPE, batch_of, gradient_of, traced_flops


def module(*lines: str, head: str = "", before: str = "") -> str:
    """A program of these instructions; the last one is its result."""
    *rest, last = lines
    body = "\n".join([f"  {line}" for line in rest] + [f"  ROOT {last}"])
    return f"HloModule test{head}\n\n{before}\nENTRY %main (x: f32[1]) -> f32[1] {{\n{body}\n}}\n"


def parameter(number: int, kind: str) -> str:
    return f"%p{number} = {kind} parameter({number})"


# As TPU programs have them: result, left, right, window, labels; batch · rows · columns · sums.
CONVOLUTIONS = {
    "rows by a matrix": ("bf16[8192,1024]", "bf16[8192,256]", "bf16[256,1024]", "", "bf_io->bf"),
    "the same, transposed": ("bf16[256,512]", "bf16[8192,256]", "bf16[8192,512]", "", "fb_io->bf"),
    "a batch as a place": (
        *("bf16[16,512,768]", "bf16[16,512,256]", "bf16[256,768,1]"),
        *("size=1", "0bf_io0->0bf"),
    ),
    "heads beside features": (
        *("bf16[16,114,4,64]", "bf16[16,114,256,1]", "bf16[4,64,256,1]"),
        *("size=1x4 pad=0_0x3_3 rhs_reversal=0x1", "0bf1_1oi0->0b1f"),
    ),
    "batches by strides": (
        *("f32[16,4,512,512]", "bf16[16,4,512,64]", "bf16[16,4,512,64]"),
        *("size=16x4 stride=15x3 lhs_dilate=16x4", "01bf_01oi->01bf"),
    ),
    "batches by padding": (
        *("bf16[16,4,512,64]", "bf16[16,4,512,512]", "bf16[16,4,512,64]"),
        *(
            "size=16x4 stride=16x4 pad=15_15x3_3 lhs_dilate=15x3 rhs_reversal=1x1",
            "01bf_01io->01bf",
        ),
    ),
    "a sum over places": (
        *("f32[256,32128,1]", "f32[16,15,256]", "f32[16,15,32128]", "size=15", "f0b_i0o->bf0"),
    ),
}
EXPECTED = {
    "rows by a matrix": 8192 * 1024 * 256,
    "the same, transposed": 8192 * 256 * 512,
    "a batch as a place": 16 * 512 * 768 * 256,
    "heads beside features": 16 * 114 * 4 * 64 * 256,
    "batches by strides": 16 * 4 * 512 * 512 * 64,
    "batches by padding": 16 * 4 * 512 * 512 * 64,
    "a sum over places": 256 * 32128 * 15 * 16,
}


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_the_products_of_a_tpu_program(name):
    result, left, right, window, labels = CONVOLUTIONS[name]
    text = module(
        parameter(0, left),
        parameter(1, right),
        f"%c = {result}{{1,0:T(8,128)(2,1)S(1)}} convolution(%p0, %p1), window={{{window}}}, "
        f'dim_labels={labels}, metadata={{op_name="jit(step)/dot_general" stack_frame_id=7}}',
    )
    assert program_costs(text).flops == 2 * EXPECTED[name]


def test_a_loop_without_a_count_runs_until_its_condition_ends():
    loop = """%cond (t: (s32[], f32[4,4])) -> pred[] {
  %t = (s32[]{:T(128)}, f32[4,4]{1,0}) parameter(0)
  %limit = s32[] constant(9)
  %i = s32[] get-tuple-element(%t), index=0
  ROOT %lt = pred[] compare(%i, %limit), direction=LT
}

%body (t: (s32[], f32[4,4])) -> (s32[], f32[4,4]) {
  %t = (s32[], f32[4,4]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%t), index=0
  %x = f32[4,4]{1,0} get-tuple-element(%t), index=1
  %two = s32[] constant(2)
  %next = s32[] add(%i, %two)
  %y = f32[4,4]{1,0} dot(%x, %x), lhs_contracting_dims={1}, rhs_contracting_dims={0}
  ROOT %r = (s32[], f32[4,4]{1,0}) tuple(%next, %y)
}
"""
    text = module(
        "%x = f32[4,4] parameter(0)",
        "%start = s32[] constant(3)",
        "%copied = s32[] copy(%start)",
        "%t = (s32[], f32[4,4]) tuple(%copied, %x)",
        "%w = (s32[], f32[4,4]) while(%t), condition=%cond, body=%body",
        before=loop,
    )
    assert program_costs(text).flops == 3 * 2 * 4**3  # at 3, 5 and 7
    unknown = text.replace("direction=LT", "direction=NE")
    found = program_costs(unknown)
    assert found.flops == 2 * 4**3 and found.endless == 1


@pytest.mark.parametrize(
    ("groups", "devices"),
    [
        ("replica_groups={{0,1,2,3},{4,5,6,7}}", 4),
        ("replica_groups=[2,4]<=[8]", 4),
        ("replica_groups=[4,2]<=[2,4]T(1,0)", 2),
        ("replica_groups=mesh['axis_0'=8] {'axis_0'}", 8),
        ("replica_groups=mesh['a'=4,'b'=2] {'b'}", 2),
        ("replica_groups=mesh['a'=4,'b'=2] {'a':(2)2}", 2),
        ("replica_groups={}", 8),
    ],
)
def test_how_many_devices_exchange(groups, devices):
    text = module(
        "%x = bf16[10] parameter(0)",
        f'%g = bf16[80] all-gather(%x), {groups}, dimensions={{0}}, metadata={{op_name="a/b"}}',
        head=", is_scheduled=true, num_partitions=8",
    )
    assert program_costs(text).collectives == {
        Collective("all-gather", devices, "a/b"): 20 * devices
    }


def test_pairs_chains_and_fused_collectives_count_once():
    fused = """%scatter (p: f32[8]) -> f32[2] {
  %p = f32[8]{0} parameter(0)
  %zero = s32[] constant(0)
  %r = f32[8]{0} all-reduce(%p), replica_groups=[1,4]<=[4]
  ROOT %s = f32[2]{0} dynamic-slice(%r, %zero), dynamic_slice_sizes={2}
}

%chain.start (p: f32[2]) -> (f32[2], f32[8]) {
  %p = f32[2]{0} parameter(0)
  %g = f32[8]{0} all-gather(%p), replica_groups=[1,4]<=[4], frontend_attributes={chain_id="0"}
  ROOT %c = (f32[2], f32[8]) custom-call(%g), custom_call_target="AsyncCollectiveStart"
}

%chain.step (p: f32[2]) -> f32[8] {
  %p = f32[2]{0} parameter(0)
  ROOT %g = f32[8]{0} all-gather(%p), replica_groups=[1,4]<=[4], frontend_attributes={chain_id="0"}
}
"""
    text = module(
        "%x = f32[8] parameter(0)",
        "%y = f32[2] fusion(%x), kind=kCustom, calls=%scatter",
        "%z = (f32[2], f32[8]) fusion(%y), kind=kCustom, calls=%chain.start",
        "%zz = f32[8] fusion(%y), kind=kCustom, calls=%chain.step",
        "%s = (f32[8], f32[8]) all-reduce-start(%x), replica_groups=[1,4]<=[4]",
        "%d = f32[8] all-reduce-done(%s)",
        "%alone = f32[8] all-reduce(%d), replica_groups=[4,1]<=[4]",
        head=", num_partitions=4",
        before=fused,
    )
    costs = program_costs(text)
    assert costs.by_kind() == {"all-reduce": 32, "all-gather": 32, "reduce-scatter": 32}
    assert costs.by_kind(sent=True) == {"all-reduce": 48, "all-gather": 24, "reduce-scatter": 24}
    assert costs.sent == 96 and not costs.custom


def test_of_branches_the_dearest_counts():
    def branch(name: str, rows: int) -> str:
        return f"""%{name} (p: f32[8,8]) -> f32[8,8] {{
  %p = f32[8,8] parameter(0)
  %q = f32[{rows},8] slice(%p), slice={{[0:{rows}], [0:8]}}
  ROOT %d = f32[{rows},8] dot(%q, %p), lhs_contracting_dims={{1}}, rhs_contracting_dims={{0}}
}}
"""

    text = module(
        "%x = f32[8,8] parameter(0)",
        "%which = s32[] constant(0)",
        "%c = f32[8,8] conditional(%which, %x, %x), branch_computations={%small, %large}",
        before=branch("small", 2) + "\n" + branch("large", 8),
    )
    assert program_costs(text).flops == 2 * 8**3


def test_bytes_that_are_moved():
    fused = """%update (stack: f32[10,100], row: f32[1,100], at: s32[]) -> f32[10,100] {
  %stack = f32[10,100] parameter(0)
  %row = f32[1,100] parameter(1)
  %at = s32[] parameter(2)
  %two = f32[1,100] add(%row, %row)
  ROOT %u = f32[10,100] dynamic-update-slice(%stack, %two, %at, %at)
}

%cut (stack: f32[10,100], at: s32[]) -> f32[1,100] {
  %stack = f32[10,100] parameter(0)
  %at = s32[] parameter(1)
  ROOT %s = f32[1,100] dynamic-slice(%stack, %at, %at), dynamic_slice_sizes={1,100}
}
"""
    text = module(
        "%stack = f32[10,100] parameter(0)",
        "%at = s32[] parameter(1)",
        "%near = f32[1,100]{1,0:T(8,128)S(1)} fusion(%stack, %at), kind=kLoop, calls=%cut",
        "%far = f32[1,100]{1,0} fusion(%stack, %at), kind=kLoop, calls=%cut",
        "%u = f32[10,100] fusion(%stack, %near, %at), kind=kLoop, calls=%update",
        before=fused,
    )
    at, row = 4, 400
    assert program_costs(text).moved == (row + at) + (row + at + row) + (row + at)


def test_a_shape_says_how_large_it_is_and_where():
    text = module("%x = (bf16[2,3]{1,0:T(8,128)(2,1)S(1)}, /*index=1*/pred[], s4[5]) parameter(0)")
    [arrays] = [i.arrays for i in parse(text).computations["main"].values()]
    assert arrays == (Array("bf16", (2, 3), 1), Array("pred", ()), Array("s4", (5,)))
    assert [array.bytes for array in arrays] == [12, 1, 3]


def test_what_is_no_program_is_refused():
    with pytest.raises(UserError, match="no ENTRY"):
        parse("func.func @main() {}")


@pytest.mark.slow
@pytest.mark.parametrize("unroll", [1, 2])
def test_a_compiled_gradient_has_the_products_of_the_traced_one(unroll):
    config = ModelConfig(**{**SHAPE, "decoder_layers": 2}, scan_unroll=unroll, remat="none")
    gradient, params = gradient_of(config, batch_of("encoder_decoder", PREDICTED))
    costs = program_costs(jax.jit(gradient).lower(params).compile().as_text())
    assert costs.flops == traced_flops(jax.make_jaxpr(gradient)(params).jaxpr)
    assert costs.endless == 0 and not costs.custom


def test_what_devices_send_in_a_loop():
    mesh = jax.make_mesh((8,), ("d",), axis_types=(jax.sharding.AxisType.Auto,))
    spec = jax.sharding.PartitionSpec("d")

    def summed(x):
        def body(carry, _):
            return jax.lax.psum(jnp.sin(carry), "d"), None

        return jax.lax.scan(body, x, length=5)

    mapped = jax.shard_map(summed, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False)
    compiled = jax.jit(lambda x: mapped(x)[0]).lower(jnp.ones((8, 1024))).compile()
    found = program_costs(compiled.as_text())
    size = 5 * 1024 * 4
    assert found.by_kind().get("all-reduce") == size
    assert found.by_kind(sent=True)["all-reduce"] == 2 * size * 7 / 8


def test_costs_add_up():
    one = Costs(1.0, 2.0, collectives={Collective("all-reduce", 2): 8.0})  # type: ignore[arg-type]
    assert one.times(3).flops == 3 and one.times(3).sent == 24
