# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Every formula of the plan, against hand sums, published sizes and vLLM's own reports."""

from __future__ import annotations

import dataclasses
import json
import typing as t
from pathlib import Path

import pytest
from ansible_collections.sparerig.llm.plugins.module_utils._memory import sizing
from ansible_collections.sparerig.llm.plugins.module_utils._memory.comparison import (
    ROUNDING_BYTES,
    WEIGHTS_TOLERANCE,
)
from ansible_collections.sparerig.llm.plugins.module_utils._memory.sizing import (
    FRAGMENT_BYTES,
    FREE_BYTES,
    GIB,
    GRAPH_BYTES_BASE,
    GRAPH_BYTES_PER_LAYER_AND_SIZE,
    GRAPH_DRIVER_BYTES_PER_LAYER_AND_SIZE,
    LOGITS_BYTES,
    MIB,
    RUNNER_BYTES,
    STATE_BYTES,
    Card,
    KvLayout,
    Plan,
    PlanError,
    Use,
    activation_bytes,
    allocated_bytes,
    compile_bytes,
    graph_batch_sizes,
    graph_bytes,
    matrix_bytes,
    plan,
    weight_bytes,
)
from ansible_collections.sparerig.llm.plugins.module_utils._model import catalogue
from ansible_collections.sparerig.llm.plugins.module_utils._model.config import (
    Architecture,
    Linear,
    Quantization,
    parse,
)
from gpu.cases import CASES, Case

FIXTURES = Path(__file__).parents[4] / "fixtures"
LLAMA = dict(catalogue.find("llama-3-8b").config)
GPTQ_INT4 = {"quant_method": "gptq", "bits": 4, "group_size": 128, "desc_act": False, "sym": True}
GPTQ_INT8 = {**GPTQ_INT4, "bits": 8}
RTX_3060 = Card("RTX 3060 12GB", 12288, (8, 6), bandwidth_gb_s=360)
GEMMA_2_9B = {
    **LLAMA,
    "architectures": ["Gemma2ForCausalLM"],
    "num_hidden_layers": 42,
    "hidden_size": 3584,
    "num_attention_heads": 16,
    "vocab_size": 256000,
    "sliding_window": 4096,
}


def llama(quantization: dict[str, t.Any] | None = None, **changes: t.Any) -> Architecture:
    return parse({**LLAMA, "quantization_config": quantization, **changes})


def catalogued(name: str) -> Architecture:
    return catalogue.find(name).architecture


@pytest.fixture
def to_the_byte(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out what PyTorch's allocator adds, to see how much is counted."""
    monkeypatch.setattr(sizing, "allocated_bytes", int)


# --- weights ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("quantization", "measured_gib"),
    [(None, 14.96), (GPTQ_INT8, 8.57), (GPTQ_INT4, 5.32)],
)
def test_weights_within_a_percent_of_vllm(
    quantization: dict[str, t.Any] | None, measured_gib: float
) -> None:
    # measured: vLLM 0.26.0 on an H100, 2026-11-22, Marlin (tests/fixtures/gpu)
    assert weight_bytes(llama(quantization)) / GIB == pytest.approx(measured_gib, rel=0.01)


@pytest.mark.parametrize(
    ("name", "billion"),
    [  # parameters as the model cards say
        ("llama-3-8b", 8.03),
        ("qwen3-8b", 8.19),
        ("qwen3-1.7b", 1.72),
        ("qwen3-4b", 4.02),
    ],
)
@pytest.mark.usefixtures("to_the_byte")
def test_parameters_are_counted_as_published(name: str, billion: float) -> None:
    # The table of rotary positions is not a parameter.
    architecture = dataclasses.replace(catalogued(name), context=1)
    assert weight_bytes(architecture, Use(context=1)) / 2e9 == pytest.approx(billion, rel=0.003)


def test_llama_parameters_to_the_last_one() -> None:
    architecture = dataclasses.replace(llama(), context=1)
    rotary = 2 * 128
    assert weight_bytes(architecture, Use(context=1)) == 2 * 8_030_261_248 + rotary


@pytest.mark.parametrize(
    ("quantization", "expected"),
    [  # 1024 x 512 = 524,288 elements; 8 groups of 128
        (Quantization(), 2 * 524_288),
        # packed + fp16 scales; Marlin keeps no zero points and no index of GPTQ
        (Quantization("gptq", 4, 128, zero_points=True), 262_144 + 2 * 8 * 512),
        (Quantization("gptq", 8, None, zero_points=True), 524_288 + 2 * 512),
        (Quantization("awq", 4, 128, zero_points=True), 262_144 + 8_192 + 2_048),
        (Quantization("compressed-tensors", 4, 128), 262_144 + 8_192),
        (Quantization("compressed-tensors", 8), 524_288 + 4 * 512),
        (Quantization("fp8", 8), 524_288 + 4 * 512),
        (Quantization("fp8", 8, block=(128, 128)), 524_288 + 4 * 8 * 4),
        (Quantization("gptq", 4, 128, kept=("q_proj",)), 2 * 524_288),
    ],
)
def test_one_matrix(quantization: Quantization, expected: int) -> None:
    assert matrix_bytes(Linear(("self_attn.q_proj",), 1024, 512), quantization) == expected


@pytest.mark.parametrize(
    ("size", "allocated"),
    [  # in MiB
        (0.5, 0.5),
        (1, 1),
        (8, 8.4),  # shares 20 MiB with others
        (10, 10),
        (12.5, 12.5),  # 1.5 of 14 are split off
        (17.5, 18),
        (20, 20),
        (25, 26),
        (62.5, 64),  # nothing is split off
    ],
)
def test_a_tensor_takes_what_pytorch_gives_it(size: float, allocated: float) -> None:
    assert allocated_bytes(int(size * MIB)) == int(allocated * MIB)


def test_a_linear_factor_makes_the_table_of_positions_longer() -> None:
    # measured, vLLM 0.26.0: 512 MiB in place of 64, which Gemma 3 4B was planned too small by
    scaled = catalogued("gemma-3-4b")
    plain = dataclasses.replace(scaled, rope_linear_factor=1.0)
    assert weight_bytes(scaled) - weight_bytes(plain) == 7 * 2 * 131072 * 256


@pytest.mark.usefixtures("to_the_byte")
def test_embedding_and_head() -> None:
    one_more_row = weight_bytes(llama(vocab_size=128256 + 1)) - weight_bytes(llama())
    assert one_more_row == 2 * 2 * 64 * 4096  # both, in whole blocks of 64 rows
    head = weight_bytes(llama()) - weight_bytes(llama(tie_word_embeddings=True))
    assert head == 2 * 525_336_576
    quantized_head = weight_bytes(llama({**GPTQ_INT4, "lm_head": True}))
    assert weight_bytes(llama(GPTQ_INT4)) - quantized_head == 525_336_576 * 3 // 2


def test_the_image_encoder_is_loaded_only_if_wanted() -> None:
    gemma = catalogued("gemma-3-4b")
    more = weight_bytes(gemma, Use(image_inputs=True)) - weight_bytes(gemma)
    assert more == 2 * gemma.vision_elements


def test_weights_are_shared_and_offloaded() -> None:
    whole = weight_bytes(llama())
    assert weight_bytes(llama(), Use(tensor_parallel_size=2)) == pytest.approx(whole / 2, rel=0.001)
    assert weight_bytes(llama(), Use(cpu_offload_gib=4)) == whole - 4 * GIB
    known = dataclasses.replace(llama(), known_weights=1000)
    assert weight_bytes(known) == 1100  # an estimate: 10 % more than the files


# --- KV cache ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("architecture", "use", "per_token"),
    [
        (llama(), Use(), 131_072),
        (llama(), Use(fp8_kv_cache=True), 65_536),
        (llama(), Use(tensor_parallel_size=2), 65_536),
        (llama(), Use(tensor_parallel_size=16), 2 * 32 * 128 * 2),  # one head at least
        (catalogued("qwen2.5-7b-awq"), Use(), 2 * 28 * 4 * 128 * 2),
        (catalogued("qwen3-8b"), Use(), 2 * 36 * 8 * 128 * 2),
        # Gemma 2: 21 of 42 layers see everything. Gemma 3 4B: 5 of 34.
        (parse(GEMMA_2_9B), Use(), 2 * 21 * 8 * 256 * 2),
        (catalogued("gemma-3-4b"), Use(), 2 * 5 * 4 * 256 * 2),
    ],
)
def test_bytes_of_a_token(architecture: Architecture, use: Use, per_token: int) -> None:
    assert KvLayout.of(architecture, use).bytes_per_token == per_token


@pytest.mark.parametrize(
    ("kv_gib", "context", "tokens"),
    [  # measured: vLLM 0.26.0 on an H200; the GiB are rounded in its log
        (4.08, 8192, 33_376),
        (4.34, 8192, 35_504),
        (1.06, 8192, 8_672),
        (5.21, 8192, 42_704),
        (4.07, 16384, 33_360),
    ],
)
def test_tokens_within_3_percent_of_vllm(kv_gib: float, context: int, tokens: int) -> None:
    layout = KvLayout.of(llama(), Use())
    blocks = int(kv_gib * GIB) // layout.block_bytes
    assert layout.tokens(blocks, context) == pytest.approx(tokens, rel=0.03)


@pytest.mark.parametrize(
    ("layers", "sliding", "groups"),
    [  # (layers in a group, groups that see all, groups that see a window), as vLLM makes them
        (32, 0, (32, 1, 0)),
        (32, 32, (32, 0, 1)),
        (42, 21, (21, 1, 1)),
        (34, 29, (5, 1, 6)),  # 29 layers in 6 groups of 5, one place wasted
        (25, 12, (13, 1, 1)),  # nearly as many: the smaller kind is padded
        (30, 20, (10, 1, 2)),
    ],
)
def test_layers_are_grouped_as_vllm_does(
    layers: int, sliding: int, groups: tuple[int, int, int]
) -> None:
    architecture = dataclasses.replace(
        llama(), layers=layers, sliding_layers=sliding, window=1024 if sliding else None
    )
    layout = KvLayout.of(architecture, Use())
    page = 2 * 16 * 8 * 128 * 2
    assert (layout.block_bytes // page, layout.full_groups, layout.sliding_groups) == groups


def test_a_sliding_layer_keeps_its_window_and_two_batches() -> None:
    gemma = KvLayout.of(catalogued("gemma-3-4b"), Use(max_num_batched_tokens=512))
    remembered = -(-(1024 - 1 + 2 * 512) // 16) + 1
    assert gemma.blocks_per_chat(131072) == 8192 + 6 * remembered
    assert gemma.blocks_per_chat(160) == 10 + 6 * (10 + 1)


TINY = {
    **LLAMA,
    "hidden_size": 128,
    "num_hidden_layers": 8,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
}


@pytest.mark.parametrize(
    ("changes", "tokens"),
    [
        ({}, 524_288),
        ({"architectures": ["MistralForCausalLM"], "sliding_window": 1024}, 1_342_177),
        (
            {
                "architectures": ["Gemma2ForCausalLM"],
                "num_hidden_layers": 6,
                "sliding_window": 1024,
            },
            1_005_314,
        ),
        (
            {
                "architectures": ["Gemma3ForCausalLM"],
                "num_hidden_layers": 34,
                "sliding_window": 512,
            },
            282_537,
        ),
    ],
)
def test_tokens_to_the_last_one_as_vllm_counts_them(changes: dict[str, t.Any], tokens: int) -> None:
    # measured: vLLM 0.32.0, CPU backend (blocks of 128 tokens, one batch under way), 1 GiB
    layout = KvLayout.of(parse({**TINY, **changes}), Use(), block_tokens=128, batches=1)
    assert layout.tokens(GIB // layout.block_bytes, 8192) == tokens


def test_a_window_remembers_itself_and_what_is_under_way() -> None:
    # 1025 - 1 tokens back and two batches of 512: 2048 tokens, 128 blocks and one begun
    one_more = dataclasses.replace(llama(), window=1025, sliding_layers=32)
    layout = KvLayout.of(one_more, Use(max_num_batched_tokens=512))
    assert layout.blocks_per_chat(8192) == 129


def test_the_longest_context_is_the_longest() -> None:
    layout = KvLayout.of(llama(), Use())
    for chats in (1, 3):
        found = layout.longest_context(1000, chats, 131072)
        assert chats * layout.blocks_per_chat(found) < 1000
        assert chats * layout.blocks_per_chat(found + 256) + 1 > 1000
    assert layout.longest_context(10**6, 1, 8192) == 8192
    assert layout.longest_context(3, 1, 8192) == 0


# --- working memory ---------------------------------------------------------------------------


def test_activations() -> None:
    # Llama-3: the MLP is widest: input, residual, gate, up and their product, in 16 bit
    step = 2 * 2048 * (2 * 4096 + 3 * 14336)
    answers = int((LOGITS_BYTES + STATE_BYTES) * 16 * 128256)
    assert activation_bytes(llama(), Use()) == step + answers + RUNNER_BYTES
    more = activation_bytes(llama(), Use(max_num_seqs=17)) - activation_bytes(llama(), Use())
    assert more == (LOGITS_BYTES + STATE_BYTES) * 128256
    # a model with a narrow MLP is widest in its attention
    narrow = dataclasses.replace(llama(), intermediate=1024)
    attention = 2 * 2048 * (2 * 4096 + 2 * 4096 + 2 * 1024 + 4096)
    assert activation_bytes(narrow, Use()) == attention + answers + RUNNER_BYTES


@pytest.mark.parametrize(
    ("seqs", "sizes"),
    [
        (1, [1, 2]),
        (12, [1, 2, 4, 8, 12, 16, 24]),
        (4, [1, 2, 4, 8]),
        (16, [1, 2, 4, 8, 16, 24, 32]),
        (256, [1, 2, 4, *range(8, 256, 8), *range(256, 513, 16)]),
        (1024, [1, 2, 4, *range(8, 256, 8), *range(256, 513, 16)]),
    ],
)
def test_graph_sizes_are_vllms(seqs: int, sizes: list[int]) -> None:
    assert graph_batch_sizes(Use(max_num_seqs=seqs)) == sizes


def test_graphs() -> None:
    # 7 sizes piecewise, those up to 16 once more as a whole
    each = GRAPH_BYTES_PER_LAYER_AND_SIZE + GRAPH_DRIVER_BYTES_PER_LAYER_AND_SIZE
    assert graph_bytes(llama(), Use()) == GRAPH_BYTES_BASE + 32 * (7 + 5) * each
    assert graph_bytes(llama(), Use(enforce_eager=True)) == 0


@pytest.mark.parametrize(
    ("model", "sequences", "took_gib"),
    [  # vLLM 0.33.0 on an H100: "Graph capturing finished in 3 secs, took 0.13 GiB"
        ("qwen3-8b-fp8", 16, 0.06),
        ("qwen3-8b", 32, 0.13),
        ("qwen3-8b-awq", 32, 0.09),
        ("llama-3-8b-gptq", 32, 0.08),
        ("llama-3-8b-gptq", 64, 0.15),
        ("gemma-3-4b", 32, 0.12),
        ("qwen3-4b", 32, 0.12),
    ],
)
def test_graphs_take_no_more_than_planned(model: str, sequences: int, took_gib: float) -> None:
    planned = graph_bytes(catalogued(model), Use(max_num_seqs=sequences)) / GIB
    assert took_gib <= planned <= took_gib + 0.1


# --- cards ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("total_gib", "seen_gib"),
    [(12, 11.63), (16, 15.48), (24, 23.57), (32, 31.37)],  # PyTorch's totals in public reports
)
def test_what_programs_see_of_a_card(total_gib: int, seen_gib: float) -> None:
    visible = Card("x", total_gib * 1024, (8, 6)).visible_bytes / GIB
    assert seen_gib - 0.3 < visible <= seen_gib


def test_free_memory_is_the_drivers_word_or_worked_out() -> None:
    assert Card("x", 12288, (8, 6), free_mib=9000).free_bytes == 9000 * MIB
    free, used = Card("x", 12288, (8, 6)), Card("x", 12288, (8, 6), used_mib=700)
    assert free.free_bytes - used.free_bytes == 700 * MIB
    assert Card("x", 12288, (8, 6), used_mib=12288).free_bytes == 0


# --- the plan ---------------------------------------------------------------------------------

FITS = [
    # (quantisation, MiB, fits): the article's table on four sizes of card
    (None, 8192, False),
    (None, 12288, False),
    (None, 16384, False),
    (None, 24576, True),
    (GPTQ_INT8, 8192, False),
    (GPTQ_INT8, 12288, True),
    (GPTQ_INT8, 16384, True),
    (GPTQ_INT4, 12288, True),
    (GPTQ_INT4, 24576, True),
]


@pytest.mark.parametrize(("quantization", "mib", "fits"), FITS)
def test_what_fits(quantization: dict[str, t.Any] | None, mib: int, fits: bool) -> None:  # noqa: FBT001
    made = plan(llama(quantization), Card("x", mib, (8, 6)))
    assert made.fits is fits
    assert (made.missing == 0) is fits
    assert bool(made.vllm_arguments) is fits
    if fits:
        assert 0 <= made.free - sum(made.terms.values()) < made.kv_block_bytes
        assert made.kv_cache >= made.kv_cache_wanted
        assert made.choices == ()
    else:
        assert made.missing == sum(made.terms.values()) - made.free


def test_every_argument_that_vllm_would_choose_by_the_card_is_given() -> None:
    made = plan(llama(GPTQ_INT4), RTX_3060)
    arguments = dict(made.vllm_arguments)
    share = arguments.pop("gpu-memory-utilization")
    assert arguments == {
        "dtype": "bfloat16",
        "max-model-len": 8192,
        "max-num-seqs": 64,
        "max-num-batched-tokens": 2048,
        "block-size": 16,
        "kv-cache-dtype": "bfloat16",
        "kv-cache-memory-bytes": made.kv_cache,
        "tensor-parallel-size": 1,
    }
    # vLLM compares with what is free once the driver's context is there: slack must remain.
    taken = made.weights + made.activations + made.cuda_graphs + made.non_torch + made.kv_cache
    assert share * RTX_3060.visible_bytes <= taken
    assert (
        made.free - made.driver_context - share * RTX_3060.visible_bytes
        >= FREE_BYTES + FRAGMENT_BYTES
    )


@pytest.mark.parametrize(
    ("architecture", "card", "use", "arguments"),
    [
        (
            llama(),
            Card("old", 24576, (7, 5)),
            Use(),
            {"dtype": "float16", "kv-cache-dtype": "float16"},
        ),
        (llama(torch_dtype="float16"), Card("x", 24576, (8, 6)), Use(), {"dtype": "float16"}),
        (
            llama(GPTQ_INT4),
            Card("ada", 12288, (8, 9)),
            Use(fp8_kv_cache=True),
            {"kv-cache-dtype": "fp8"},
        ),
        (llama(), RTX_3060, Use(cpu_offload_gib=7), {"cpu-offload-gb": 7}),
        (
            llama(),
            Card("x", 12288, (8, 6), count=2),
            Use(tensor_parallel_size=2),
            {"tensor-parallel-size": 2},
        ),
    ],
)
def test_arguments(
    architecture: Architecture, card: Card, use: Use, arguments: dict[str, t.Any]
) -> None:
    made = plan(architecture, card, use)
    assert made.fits
    assert arguments.items() <= made.vllm_arguments.items()


def test_switches() -> None:
    eager = plan(llama(GPTQ_INT4), RTX_3060, Use(enforce_eager=True))
    assert eager.vllm_arguments["enforce-eager"] is True
    gemma, card = catalogued("gemma-3-4b"), Card("x", 24576, (8, 6))
    assert plan(gemma, card).vllm_arguments["language-model-only"] is True
    with_images = plan(gemma, card, Use(image_inputs=True))
    assert "language-model-only" not in with_images.vllm_arguments


def test_a_context_is_extended_right() -> None:
    use = Use(context=16384, extend_context=True)
    made = plan(llama(GPTQ_INT4), RTX_3060, use)
    # what vLLM 0.30 and later wants was tried with 0.32: without max_position_embeddings it fails
    assert made.vllm_arguments["hf-overrides"] == {
        "rope_parameters": {
            "rope_type": "yarn",
            "rope_theta": 500000.0,
            "factor": 2.0,
            "original_max_position_embeddings": 8192,
        },
        "max_position_embeddings": 16384,
    }
    assert made.kv_bytes_per_chat == 2 * GIB
    assert "unproven" in made.notes[0]


def test_the_speed_that_bandwidth_allows() -> None:
    # 360 GB/s over the weights but the embedding, and half of a full chat
    read = weight_bytes(llama(GPTQ_INT4)) - 2 * 525_336_576 + GIB // 2
    made = plan(llama(GPTQ_INT4), RTX_3060)
    assert made.decode_ceiling == pytest.approx(360e9 / read)
    # the sum of facts known beforehand: about 77 tokens a second with an empty chat
    short = plan(llama(GPTQ_INT4), RTX_3060, Use(context=256))
    assert short.decode_ceiling == pytest.approx(77, rel=0.02)
    assert plan(llama(GPTQ_INT4), Card("x", 12288, (8, 6))).decode_ceiling is None


def choices(made: Plan) -> list[str]:
    return [choice.what for choice in made.choices]


@pytest.mark.parametrize(
    ("architecture", "card", "use", "offered"),
    [
        (llama(GPTQ_INT8), Card("x", 12288, (8, 6)), Use(chats=4), "1 chat of full length at once"),
        (llama(GPTQ_INT8), Card("x", 12288, (8, 6)), Use(chats=4), "a context of 2816 tokens"),
        (llama(GPTQ_INT8), Card("ada", 12288, (8, 9)), Use(chats=2), "an FP8 KV cache"),
        (llama(), RTX_3060, Use(), "a copy of the model in INT4 (5.3 GiB)"),
        (llama(), RTX_3060, Use(), "6 GiB of weights in the PC's own memory"),
        (llama(), Card("x", 12288, (8, 6), count=2), Use(), "2 cards together"),
        (
            llama(GPTQ_INT4),
            Card("x", 12288, (8, 6), used_mib=5000),
            Use(),
            "free the 5000 MiB that other programs hold",
        ),
        (
            llama(GPTQ_INT4),
            Card("x", 12288, (8, 6), used_mib=4150),
            Use(),
            "a context of 4864 tokens",
        ),
    ],
)
def test_the_nearest_choices(
    architecture: Architecture, card: Card, use: Use, offered: str
) -> None:
    made = plan(architecture, card, use)
    assert not made.fits
    assert offered in choices(made)


@pytest.mark.parametrize("mib", [6144, 8192, 10240, 11264])
@pytest.mark.parametrize("quantization", [None, GPTQ_INT8, GPTQ_INT4])
def test_a_choice_makes_it_fit(quantization: dict[str, t.Any] | None, mib: int) -> None:
    card, use = Card("x", mib, (8, 9), count=4, used_mib=600), Use(chats=3)
    made = plan(llama(quantization), card, use)
    tried = [choice for choice in made.choices if choice.settings and "copy" not in choice.what]
    for choice in tried:
        assert plan(llama(quantization), card, dataclasses.replace(use, **choice.settings)).fits


def test_memory_that_others_hold_is_counted() -> None:
    alone = plan(llama(GPTQ_INT4), RTX_3060, Use(max_num_seqs=16))
    desktop = plan(
        llama(GPTQ_INT4), dataclasses.replace(RTX_3060, used_mib=700), Use(max_num_seqs=16)
    )
    assert alone.kv_cache - desktop.kv_cache == pytest.approx(700 * MIB, abs=2 * MIB)


def test_a_reserve_is_left_free() -> None:
    use = Use(max_num_seqs=16)
    whole = plan(llama(GPTQ_INT4), RTX_3060, use)
    less = plan(llama(GPTQ_INT4), RTX_3060, dataclasses.replace(use, reserve_mib=768))
    assert less.slack - whole.slack == 768 * MIB
    assert whole.kv_cache - less.kv_cache == pytest.approx(768 * MIB, abs=2 * MIB)


@pytest.mark.parametrize("total", [81_559, 143_771, 24_576])
def test_no_share_is_above_the_whole_card(total: int) -> None:
    # an H100 tells of 79.2 GiB free, more than the rule for GeForce cards leaves
    card = Card("x", total, (9, 0), free_mib=total - 500)
    arguments = plan(llama(GPTQ_INT4), card).vllm_arguments
    assert 0 < arguments["gpu-memory-utilization"] <= 1


@pytest.mark.parametrize("gpu_mib", range(8_192, 32_768, 512))
def test_more_memory_is_never_fewer_tokens(gpu_mib: int) -> None:
    for model in catalogue.MODELS:
        if model.id == "gemma-3-4b":
            continue
        use = Use(max_num_seqs=16)
        less = plan(model.architecture, Card("x", gpu_mib, (8, 9)), use)
        more = plan(model.architecture, Card("x", gpu_mib + 512, (8, 9)), use)
        assert more.kv_cache_tokens >= less.kv_cache_tokens


# --- answers at once ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("memory_mib", "use", "sequences"),
    [
        (12_288, Use(), 64),  # measured: 32 users get 1.4 times the tokens of 16 at once
        (10_240, Use(), 32),
        (24_576, Use(), 128),
        (12_288, Use(max_num_seqs=16), 16),  # what is asked for is not changed
        (12_288, Use(max_num_seqs=200), 200),
        (12_288, Use(max_num_batched_tokens=32), 32),  # vLLM: no more than tokens in a step
        (12_288, Use(context=1024, chats=30), 64),
    ],
)
def test_answers_at_once_are_chosen_for_the_card(memory_mib: int, use: Use, sequences: int) -> None:
    made = plan(llama(GPTQ_INT4), Card("x", memory_mib, (8, 6)), use)
    assert made.use.max_num_seqs == sequences
    assert made.vllm_arguments["max-num-seqs"] == sequences


def test_the_cost_of_more_answers_is_said() -> None:
    made = plan(llama(GPTQ_INT4), RTX_3060)
    least = plan(llama(GPTQ_INT4), RTX_3060, Use(max_num_seqs=16))
    lost = least.kv_cache_tokens - made.kv_cache_tokens
    assert lost <= 0.1 * least.kv_cache_tokens
    assert f"64 answers at once (max_num_seqs): {lost} tokens of KV cache" in made.notes[-1]
    assert not least.notes


def test_as_many_answers_as_full_chats() -> None:
    made = plan(llama(GPTQ_INT4), Card("x", 49_152, (8, 6)), Use(context=1024, chats=200))
    assert (made.use.max_num_seqs or 0) >= 200


# --- what cannot be ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("architecture", "card", "use", "says"),
    [
        (
            llama(),
            Card("GTX 1080 Ti", 11264, (6, 1)),
            Use(),
            "GTX 1080 Ti has compute capability 6.1; vLLM needs 7.5",
        ),
        (parse(GEMMA_2_9B), Card("old", 24576, (7, 5)), Use(), "Gemma 2 needs bfloat16"),
        (llama({**GPTQ_INT4, "desc_act": True}), RTX_3060, Use(), "desc_act true"),
        (
            llama(),
            RTX_3060,
            Use(fp8_kv_cache=True),
            "needs compute capability 8.9, RTX 3060 12GB has 8.6",
        ),
        (llama(), RTX_3060, Use(context=16384), "context 16384 is more than the 8192 tokens"),
        (
            llama(rope_scaling={"rope_type": "llama3"}),
            RTX_3060,
            Use(context=16384, extend_context=True),
            "cannot be stretched",
        ),
        (
            llama(),
            RTX_3060,
            Use(tensor_parallel_size=2),
            "tensor_parallel_size 2 needs as many cards",
        ),
        (
            llama(),
            Card("x", 12288, (8, 6), count=3),
            Use(tensor_parallel_size=3),
            "must divide the model's 32",
        ),
    ],
)
def test_what_cannot_be_planned(
    architecture: Architecture, card: Card, use: Use, says: str
) -> None:
    with pytest.raises(PlanError) as refused:
        plan(architecture, card, use)
    assert says in str(refused.value)


@pytest.mark.parametrize(
    ("wish", "says"),
    [
        ({"context": 0}, "context is 0"),
        ({"context": -5}, "context is -5"),
        ({"context": 10**9}, "context is 1000000000"),
        ({"chats": 0}, "chats is 0"),
        ({"max_num_seqs": 10**6}, "max_num_seqs is 1000000"),
        ({"tensor_parallel_size": 0}, "tensor_parallel_size is 0"),
        ({"max_num_batched_tokens": 8}, "less than max_num_seqs 16"),
        ({"cpu_offload_gib": -1}, "cpu_offload_gib is -1"),
    ],
)
def test_absurd_wishes(wish: dict[str, int], says: str) -> None:
    with pytest.raises(PlanError, match=says):
        Use(**wish)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("total", "used"), [(0, 0), (12, 0), (-12288, 0), (12 * 2**30, 0), (12288, -1), (12288, 12289)]
)
def test_absurd_cards(total: int, used: int) -> None:
    with pytest.raises(PlanError, match="nvidia-smi"):
        Card("x", total, (8, 6), used_mib=used)


def test_measured_logs_are_at_hand(fixtures: Path) -> None:
    """The figures that this file holds the plan against are those in the recorded logs."""
    starts = (fixtures / "vllm_log" / "starts-0.26.0.jsonl").read_text()
    assert "Model loading took 8.62 GiB" in starts
    assert "GPU KV cache size: 42,704 tokens" in starts


# --- while vLLM compiles ------------------------------------------------------------------------


def test_the_compiler_needs_room_for_another_embedding() -> None:
    # measured: with room for the chats alone, vLLM asked for 1.16 GiB more, and got no further
    small, use = Card("x", 8192, (8, 6)), Use(context=2048)
    made = plan(catalogued("qwen3-8b-awq"), small, use)
    assert made.kv_bytes_per_chat < made.kv_cache < made.kv_cache_wanted
    assert not made.fits
    assert "while it compiles" in made.notes[-1]
    assert "no CUDA graphs" in choices(made)
    assert plan(catalogued("qwen3-8b-awq"), small, Use(context=2048, enforce_eager=True)).fits


def test_cards_that_work_together_share_the_compiler_s_embedding() -> None:
    alone, together = (
        compile_bytes(llama(), Use()),
        compile_bytes(llama(), Use(tensor_parallel_size=2)),
    )
    assert alone == 2 * together == 2 * 525_336_576


# --- today's plan against the recorded starts ---------------------------------------------------

RECORDED = [
    json.loads(line)
    for line in (FIXTURES / "gpu" / "h100-vllm-0.33.0.jsonl").read_text().splitlines()
]
BY_TITLE = {case.title: case for case in CASES}
STARTED = [start for start in RECORDED if "after_start" in start]
SERVED = [start for start in RECORDED if "after_burst" in start]
RAN_OUT = [start for start in RECORDED if start["round"] == 3 and "error" in start]


def title(start: dict[str, t.Any]) -> str:
    return f"{start['round']}-{start['case']}"


def as_then(start: dict[str, t.Any]) -> Plan:
    """Plan it with as many answers at once as it had."""
    case = BY_TITLE[start["case"]]
    use = dataclasses.replace(case.use, max_num_seqs=start["plan"]["max_num_seqs"])
    return dataclasses.replace(case, use=use).plan


def beside_the_plan(start: dict[str, t.Any], size: float) -> float:
    """Take from a size what was planned for the weights and the KV cache of that start."""
    planned: float = start["plan"]["weights"] + start["plan"]["kv_cache"]
    return size - planned * GIB


def room(made: Plan) -> int:
    """What PyTorch may take beside weights and KV cache."""
    return made.pytorch - made.weights - made.kv_cache


@pytest.mark.parametrize("start", STARTED, ids=title)
def test_the_plan_of_today_has_the_weights_of_then(start: dict[str, t.Any]) -> None:
    made = BY_TITLE[start["case"]].plan
    assert made.fits
    seen = start["observed"]["weights_gib"] * GIB
    assert abs(made.weights - seen) <= WEIGHTS_TOLERANCE * seen + ROUNDING_BYTES


@pytest.mark.parametrize("start", STARTED, ids=title)
def test_the_compiler_would_have_had_its_room(start: dict[str, t.Any]) -> None:
    case = BY_TITLE[start["case"]]
    took = start["after_start"]["peak_before_kv_cache"] - start["after_start"]["allocated_by_load"]
    assert took <= compile_bytes(parse(case.full_config), case.use) + case.plan.activations
    assert took <= case.plan.pytorch - case.plan.weights


@pytest.mark.parametrize("start", SERVED, ids=title)
def test_every_served_start_would_have_had_its_memory(start: dict[str, t.Any]) -> None:
    made = as_then(start)
    after = start["after_burst"]
    at_peak = beside_the_plan(start, after["torch_allocated_peak"])
    assert room(made) >= at_peak + FREE_BYTES
    held = beside_the_plan(start, after["torch_reserved_peak"])
    pressed = after["torch_reserved_peak"] > after["torch_cap"] - FREE_BYTES
    # What PyTorch was free to hold it would hold again; pressed, it gave back what it could.
    assert room(made) >= (at_peak if pressed else held)


@pytest.mark.parametrize("start", RAN_OUT, ids=title)
def test_who_ran_out_of_memory_would_have_had_more(start: dict[str, t.Any]) -> None:
    """Eleven starts were made smaller than the plan, by a fault of the harness, and died."""
    had = beside_the_plan(start, start["after_start"]["torch_cap"])
    assert room(as_then(start)) >= had + 160 * MIB


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.title)
def test_a_margin_stays_free_of_every_card(case: Case) -> None:
    made = case.plan
    others = made.driver_context + made.non_torch + made.graphs_of_driver
    assert made.free - others - made.pytorch >= FREE_BYTES
    share = float(made.environment["PYTORCH_CUDA_ALLOC_CONF"].rpartition(":")[2])
    assert share * made.card.visible_bytes == pytest.approx(made.pytorch, rel=0.0002)
