# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a model takes of a card's memory under vLLM, and the flags that make it so.

The sums follow vLLM 0.33 as released, with PyTorch's allocator set as ALLOCATOR says;
docs/what-fits.md shows them beside measurements on a real GPU, from empty compile caches. What
the sums cannot know exactly (activations, CUDA graphs, the driver's own memory) is rounded up: a
plan that says "fits" must not run out of memory.

Why the allocator is set: in vLLM 0.33 the KV cache is one allocation (in 0.26 it was one for each
layer). By default a small tensor may be put into the compiler's scratch, which then cannot be
given back for the KV cache: 16-bit models with tied embeddings ran out of memory at their first
start, by up to 0.67 GiB (measured, vLLM 0.33.0). Blocks above max_split_size_mb are never split,
and are given back. (Expandable segments help those models too, but lose 0.67 GiB to fragments
where GPTQ weights are repacked: Llama-3-8B ran out of memory with them.) And PyTorch keeps what
it once had, up to the whole card; per_process_memory_fraction holds it to the plan, so that the
slack stays free for others.

Why --kv-cache-memory-bytes and not --gpu-memory-utilization alone: with the latter, vLLM gives
the KV cache whatever its trial run left, and two starts of the same model on the same card
differed by 6 % (33,376 and 35,504 tokens, measured), because compiling in the first start raised
the peak; and in 0.26 the CUDA graphs came on top of the budget. With the KV cache's size given,
the trial run does not decide anything. The utilisation is set as well: vLLM then only checks it
against free memory at the start, and refuses in words where it would otherwise run out later.
"""

from __future__ import annotations

import math
import typing as t
from dataclasses import dataclass, field, replace

from ansible_collections.sparerig.llm.plugins.module_utils._gpu.cards import (
    BFLOAT16_CAPABILITY,
    LEAST_CAPABILITY,
)

if t.TYPE_CHECKING:
    from ansible_collections.sparerig.llm.plugins.module_utils._model.config import (
        Architecture,
        Linear,
        Quantization,
    )

MIB: t.Final = 1 << 20
GIB: t.Final = 1 << 30

# --- constants, each with where it is from ------------------------------------------------------

# The variable that sets PyTorch's allocator, and its value (see above); the plan gives the share.
ALLOCATOR: t.Final = "PYTORCH_CUDA_ALLOC_CONF"
ALLOCATOR_SETTINGS: t.Final = "max_split_size_mb:128,per_process_memory_fraction:{share:.4f}"
# vLLM config/cache.py DEFAULT_BLOCK_SIZE; given as a flag all the same.
BLOCK_TOKENS: t.Final = 16
# vLLM vocab_parallel_embedding.py: rows of embedding and head are rounded up to this.
VOCAB_ROWS: t.Final = 64
# vLLM config/vllm.py max_in_flight_tokens: with asynchronous scheduling, its default on one
# card, two batches are under way at once; sliding layers keep both.
BATCHES_IN_FLIGHT: t.Final = 2
# vLLM config/vllm.py: CUDA graphs are made for batches of up to twice max_num_seqs, at most 512.
GRAPH_BATCH_LIMIT: t.Final = 512
# Measured, vLLM 0.33.0: 0.06, 0.08 to 0.13, and 0.14 to 0.17 GiB for 12, 18 and 30 graphs of 28 to
# 36 layers, at most 217 KiB for a layer and a graph; 58 KiB of it are the driver's, not PyTorch's.
GRAPH_BYTES_PER_LAYER_AND_SIZE: t.Final = 160 * 1024
GRAPH_DRIVER_BYTES_PER_LAYER_AND_SIZE: t.Final = 64 * 1024
GRAPH_BYTES_BASE: t.Final = 16 * MIB
# Logits in 16 bit and as float32, their copy sorted with 8-byte indices and the sort's own
# buffers, the probabilities of top-p sampling (vLLM v1/sample). Measured, vLLM 0.33.0, without
# FlashInfer's sampler: the peak of 32 answers and a full batch is covered with this.
LOGITS_BYTES: t.Final = 40
# What vLLM keeps for every answer under way: counts of tokens (4 bytes) and a mask of the
# vocabulary (v1/worker/gpu/sample). Measured, vLLM 0.33.0: 0.53 MiB for 128,256 tokens.
STATE_BYTES: t.Final = 4.25
# Its buffers for inputs and block tables. Measured, vLLM 0.33.0: 31 MiB.
RUNNER_BYTES: t.Final = 32 * MIB
# Measured, vLLM 0.26.0: 0.22 GiB that PyTorch does not manage (kernels, library workspaces).
NON_TORCH_BYTES: t.Final = 230 * MIB
# The CUDA context of a process. Measured on an H100, with the libraries: 0.57 GiB where the engine
# had the GPU alone, 0.77 GiB beside other programs. It grows with the GPU: small cards take less.
DRIVER_CONTEXT_BYTES: t.Final = 560 * MIB
# The margin of every card: what PyTorch's allocator may not take, for others on the card, a
# desktop above all, that add from minute to minute.
FREE_BYTES: t.Final = 100 * MIB
# What PyTorch's allocator loses to fragments between blocks in use, beyond what the rounded-up
# activations cover. Chosen from starts of vLLM 0.33.0 (tests/fixtures/gpu): where PyTorch was not
# pressed it held 0.18 to 0.26 GiB more than was in use at the peak; of 13 starts held to the sum
# without this, 10 ran out of memory under load.
FRAGMENT_BYTES: t.Final = 284 * MIB
# What the driver keeps of a card and no program sees. PyTorch reports 11.63 of 12, 15.48 of 16,
# 23.57 of 24 and 31.37 of 32 GiB in public reports of GeForce cards; this covers all of them.
RESERVED_MIB: t.Final = 256
RESERVED_PART: t.Final = 0.017
# What the loaded weights of an unknown architecture may take beyond their files: vLLM pads some
# formats for its kernels. Measured, vLLM 0.33.0: gpt-oss-20b in MXFP4, 12.82 GiB of files, 13.80.
ESTIMATE_MARGIN: t.Final = 0.10

FP8_CAPABILITY: t.Final = (8, 9)  # native FP8: vLLM triton_attn.py, compressed_tensors_w8a8_fp8.py
# vLLM config/model.py: these lose their footing in float16.
NEEDS_BFLOAT16: t.Final = ("Gemma 2", "Gemma 3")

_STEP = 256  # contexts are offered in steps of this many tokens
_LEAST_CONTEXT = 1024  # a shorter chat is of no use


class PlanError(ValueError):
    """The request cannot be planned at all; the text names the value and the way out."""


@dataclass(frozen=True)
class Card:
    """A card as its driver reports it. MiB as nvidia-smi prints them."""

    name: str
    total_mib: int
    capability: tuple[int, int]
    used_mib: int = 0  # by a desktop, a game, another engine
    free_mib: int | None = None  # as measured; else worked out
    bandwidth_gb_s: float | None = None
    count: int = 1
    confirmed: bool = True  # False: known by its PCI id alone, there is no driver yet
    indexes: tuple[int, ...] = ()  # which of the host's cards, where it has others as well

    def __post_init__(self) -> None:
        for what, value in (("total", self.total_mib), ("used", self.used_mib)):
            if not 0 <= value <= _MOST_MIB:
                raise PlanError(
                    f"{self.name}: {what} memory of {value} MiB is not a card's; give MiB as"
                    " nvidia-smi prints them."
                )
        if self.total_mib < _LEAST_MIB or self.used_mib > self.total_mib:
            raise PlanError(
                f"{self.name}: {self.used_mib} MiB used of {self.total_mib} MiB in all is not"
                " a card's; give MiB as nvidia-smi prints them."
            )

    @property
    def visible_bytes(self) -> int:
        """What a program sees as the card's memory: by rule, or more where the driver says so."""
        by_rule = self.total_mib * MIB - int(
            RESERVED_MIB * MIB + RESERVED_PART * self.total_mib * MIB
        )
        if self.free_mib is None:
            return by_rule
        return max(by_rule, (self.free_mib + self.used_mib) * MIB)

    @property
    def free_bytes(self) -> int:
        """What nobody holds yet."""
        if self.free_mib is not None:
            return self.free_mib * MIB
        return max(0, self.visible_bytes - self.used_mib * MIB)


_LEAST_MIB = 1_000
_MOST_MIB = 1_000_000


@dataclass(frozen=True)
class Use:
    """What people want to do with it."""

    context: int = 8192  # tokens of one chat, question and answer together
    chats: int = 1  # of full length, at the same time
    max_num_seqs: int | None = None  # answers under way at once; None: chosen for the card
    max_num_batched_tokens: int = 2048  # vLLM's own default on cards under 70 GiB
    fp8_kv_cache: bool = False
    enforce_eager: bool = False
    tensor_parallel_size: int = 1
    cpu_offload_gib: int = 0
    extend_context: bool = False  # beyond the model's own, by YaRN
    image_inputs: bool = False
    reserve_mib: int = 0  # left free beside the slack, for others on the card

    def __post_init__(self) -> None:
        for name, (least, most) in _RANGES.items():
            value = getattr(self, name)
            if value is not None and not least <= value <= most:
                raise PlanError(f"{name} is {value}, where {least} to {most} is possible.")
        if self.max_num_batched_tokens < self.sequences:
            raise PlanError(
                f"max_num_batched_tokens {self.max_num_batched_tokens} is less than max_num_seqs"
                f" {self.sequences}: vLLM needs room for one token of each answer."
            )

    @property
    def sequences(self) -> int:
        """Answers under way at once; where the planner has not chosen yet, the least it takes."""
        return self.max_num_seqs or max(self.chats, SEQUENCES[0])


# What the planner chooses max_num_seqs from. With 16 answers at once, 32 users got 2,940 tokens a
# second and waited 1.24 s for the first; with 64 they got 4,154 and waited 0.46 s (measured, vLLM
# 0.33.0, Llama-3-8B INT4 in 12 GiB), for 6.7 % of the KV cache.
SEQUENCES: t.Final = (16, 32, 64, 128, 256)
# More answers at once are of use only while the KV cache has room for each: short ones, with
# question, take about this many tokens.
TOKENS_PER_SEQUENCE: t.Final = 512
# The most of the KV cache that more answers at once may cost.
CACHE_FOR_SEQUENCES: t.Final = 0.10

_RANGES: t.Final = {
    "context": (1, 10_000_000),
    "chats": (1, 1024),
    "max_num_seqs": (1, 1024),
    "max_num_batched_tokens": (1, 131_072),
    "tensor_parallel_size": (1, 16),
    "cpu_offload_gib": (0, 1024),
    "reserve_mib": (0, 1_000_000),
}


@dataclass(frozen=True)
class Choice:
    """A change that makes it fit."""

    what: str
    cost: str
    settings: dict[str, t.Any]


@dataclass(frozen=True)
class Plan:
    """The sum for one card (of each, where several work together). All sizes in bytes."""

    model: str
    card: Card
    use: Use
    estimate: bool
    fits: bool
    free: int
    weights: int
    activations: int
    cuda_graphs: int
    non_torch: int
    driver_context: int
    slack: int
    kv_cache: int
    kv_cache_wanted: int
    graphs_of_driver: int
    kv_block_bytes: int
    kv_bytes_per_token: int
    kv_bytes_per_chat: int
    kv_cache_tokens: int
    full_chats: float
    longest_context: int
    dtype: str
    decode_ceiling: float | None  # tokens a second, for one chat
    vllm_arguments: dict[str, t.Any]  # of `vllm serve`, by their names without dashes
    choices: tuple[Choice, ...] = ()
    notes: tuple[str, ...] = field(default_factory=tuple)

    @property
    def terms(self) -> dict[str, int]:
        """Name what the card's memory is used for, in the order it is taken."""
        return {
            "driver_context": self.driver_context,
            "weights": self.weights,
            "non_torch": self.non_torch,
            "activations": self.activations,
            "cuda_graphs": self.cuda_graphs,
            "kv_cache": self.kv_cache if self.fits else self.kv_cache_wanted,
            "slack": self.slack,
        }

    @property
    def pytorch(self) -> int:
        """What PyTorch's allocator may take."""
        graphs = self.cuda_graphs - self.graphs_of_driver
        return self.weights + self.activations + graphs + self.kv_cache + FRAGMENT_BYTES

    @property
    def environment(self) -> dict[str, str]:
        """The variables of the engine's environment that make the sum true."""
        return allocator(self.pytorch / self.card.visible_bytes)

    @property
    def missing(self) -> int:
        """By how much it does not fit."""
        return max(0, sum(self.terms.values()) - self.free)


def allocator(share: float) -> dict[str, str]:
    """Set PyTorch's allocator, and the share of the card's memory that it may take."""
    return {ALLOCATOR: ALLOCATOR_SETTINGS.format(share=min(1.0, share))}


def plan(
    architecture: Architecture,
    card: Card,
    use: Use | None = None,
    *,
    model: str = "",
    estimate: bool = False,
) -> Plan:
    """Work out what the model takes of the card, and the flags for vLLM."""
    use = use or Use()
    notes = _check(architecture, card, use)
    use, cost = _with_sequences(architecture, card, use)
    notes += cost
    made = _sum(architecture, card, use, model, estimate=estimate)
    if not made.fits:
        made = replace(made, choices=tuple(_choices(architecture, card, use, made)))
    return replace(made, notes=(*notes, *made.notes))


def _with_sequences(
    architecture: Architecture, card: Card, use: Use
) -> tuple[Use, tuple[str, ...]]:
    """Choose max_num_seqs where it is left open; the text says what it costs."""
    if use.max_num_seqs is not None:
        return use, ()
    least = replace(use, max_num_seqs=use.sequences)
    base = _sum(architecture, card, least, "", estimate=False)
    enough = base.kv_cache_tokens * (1 - CACHE_FOR_SEQUENCES)
    for sequences in reversed(SEQUENCES):
        if not use.sequences < sequences <= use.max_num_batched_tokens:
            continue
        tried = replace(use, max_num_seqs=sequences)
        made = _sum(architecture, card, tried, "", estimate=False)
        tokens = made.kv_cache_tokens
        if made.fits and tokens >= max(enough, sequences * TOKENS_PER_SEQUENCE):
            lost = base.kv_cache_tokens - tokens
            percent = 100 * lost / base.kv_cache_tokens
            cost = (
                f"{sequences} answers at once (max_num_seqs): {lost} tokens of KV cache"
                f" ({percent:.1f} %) less than with {use.sequences}."
            )
            return tried, (cost,)
    return least, ()


# --- what cannot be ---------------------------------------------------------------------------


def check_card(card: Card) -> None:
    """Refuse a card that can serve no model at all."""
    if card.capability < LEAST_CAPABILITY:
        raise PlanError(
            f"{card.name} has compute capability {'.'.join(map(str, card.capability))}; vLLM needs"
            " 7.5 (RTX 20 series) or newer. This card cannot serve a model with vLLM."
        )


def _check(architecture: Architecture, card: Card, use: Use) -> tuple[str, ...]:
    notes = []
    check_card(card)
    capability = ".".join(map(str, card.capability))
    if card.capability < BFLOAT16_CAPABILITY and architecture.family in NEEDS_BFLOAT16:
        raise PlanError(
            f"{architecture.family} needs bfloat16, which {card.name} (compute capability"
            f" {capability}) cannot calculate in; choose a Llama, Mistral or Qwen model."
        )
    if architecture.quantization.act_order:
        raise PlanError(
            "The model was quantised with desc_act true and a group size, which vLLM 0.30 and"
            " later refuses; choose a copy made with desc_act false."
        )
    if use.fp8_kv_cache and card.capability < FP8_CAPABILITY:
        raise PlanError(
            f"An FP8 KV cache needs compute capability 8.9, {card.name} has {capability};"
            " leave kv_cache_dtype at auto."
        )
    if use.context > architecture.context:
        if not use.extend_context:
            raise PlanError(
                f"context {use.context} is more than the {architecture.context} tokens that the"
                f" model was made for. Ask for {architecture.context}, choose a model with a longer"
                " context, or extend it with extend_context (answers get worse)."
            )
        if architecture.rope_theta is None:
            raise PlanError(
                f"The context of this model ({architecture.context}) cannot be stretched: it is"
                " stretched already, or its config.json has no rope_theta."
            )
        notes.append(
            f"The context is stretched from {architecture.context} to {use.context} tokens by"
            " YaRN: how good the answers are there is unproven. A model made for it is better."
        )
    if use.tensor_parallel_size > 1 and (
        architecture.heads % use.tensor_parallel_size or use.tensor_parallel_size > card.count
    ):
        raise PlanError(
            f"tensor_parallel_size {use.tensor_parallel_size} needs as many cards (there are"
            f" {card.count}) and must divide the model's {architecture.heads} attention heads."
        )
    if "fp8" in architecture.quantization.method and card.capability < FP8_CAPABILITY:
        notes.append("This card calculates FP8 weights in 16 bit: they save memory, not time.")
    return tuple(notes)


# --- the sum ----------------------------------------------------------------------------------


def _sum(
    architecture: Architecture,
    card: Card,
    use: Use,
    model: str,
    estimate: bool,  # noqa: FBT001
) -> Plan:
    dtype = "float16" if card.capability < BFLOAT16_CAPABILITY else architecture.dtype
    weights = weight_bytes(architecture, use)
    activations = activation_bytes(architecture, use)
    graphs = graph_bytes(architecture, use)
    layout = KvLayout.of(architecture, use)
    fixed = weights + activations + graphs + NON_TORCH_BYTES
    scratch = compile_bytes(architecture, use)
    slack = FRAGMENT_BYTES + FREE_BYTES + use.reserve_mib * MIB
    room = card.free_bytes - DRIVER_CONTEXT_BYTES - fixed - slack
    blocks = max(0, room // layout.block_bytes)
    # While vLLM compiles, there is no KV cache yet: its place has to do for the scratch.
    for_chats = use.chats * layout.blocks_per_chat(use.context) + _NULL_BLOCKS
    for_compiler = math.ceil((scratch - activations - graphs) / layout.block_bytes)
    wanted_blocks = max(for_chats, for_compiler)
    fits = blocks >= wanted_blocks
    kv_cache = blocks * layout.block_bytes
    utilization = min(1.0, math.floor(1000 * (fixed + kv_cache) / card.visible_bytes) / 1000)
    return Plan(
        model=model,
        card=card,
        use=use,
        estimate=estimate,
        fits=fits,
        free=card.free_bytes,
        weights=weights,
        activations=activations,
        cuda_graphs=graphs,
        non_torch=NON_TORCH_BYTES,
        driver_context=DRIVER_CONTEXT_BYTES,
        slack=slack,
        kv_cache=kv_cache,
        kv_cache_wanted=wanted_blocks * layout.block_bytes,
        graphs_of_driver=_recorded(architecture, use) * GRAPH_DRIVER_BYTES_PER_LAYER_AND_SIZE,
        kv_block_bytes=layout.block_bytes,
        kv_bytes_per_token=layout.bytes_per_token,
        kv_bytes_per_chat=layout.blocks_per_chat(use.context) * layout.block_bytes,
        kv_cache_tokens=layout.tokens(blocks, use.context),
        full_chats=blocks / layout.blocks_per_chat(use.context),
        longest_context=layout.longest_context(
            blocks, use.chats, max(architecture.context, use.context)
        ),
        dtype=dtype,
        decode_ceiling=_decode_ceiling(architecture, card, use, layout),
        vllm_arguments=(
            _vllm_arguments(architecture, use, dtype, kv_cache, utilization) if fits else {}
        ),
        notes=(_COMPILER,) if for_chats <= blocks < for_compiler else (),
    )


_COMPILER: t.Final = (
    "The chats would fit, but the place of the KV cache is too small for what vLLM needs there"
    " while it compiles, before there is a cache."
)


def weight_bytes(architecture: Architecture, use: Use | None = None) -> int:
    """Size what vLLM reports as "Model loading took", on each card."""
    use = use or Use()
    cards = use.tensor_parallel_size
    offloaded = use.cpu_offload_gib * GIB
    if architecture.known_weights is not None:
        loaded = int(architecture.known_weights * (1 + ESTIMATE_MARGIN))
        return max(0, loaded // cards - offloaded)
    matrices = sum(
        matrix_bytes(linear, architecture.quantization) for linear in architecture.linears
    )
    small = 2 * (architecture.norms * architecture.hidden + architecture.bias)
    if architecture.qk_norm:
        small += 2 * 2 * architecture.head_dim
    total = architecture.layers * (matrices + small) + 2 * architecture.hidden
    total += _embedding_bytes(architecture) + _head_bytes(architecture)
    if use.image_inputs:
        total += 2 * architecture.vision_elements
    return max(0, total // cards + _rotary_bytes(architecture, use) - offloaded)


def matrix_bytes(linear: Linear, quantization: Quantization) -> int:
    """Size one matrix with what its format stores beside the numbers."""
    elements = linear.inputs * linear.outputs
    if quantization.method == "none" or quantization.keeps(linear):
        return allocated_bytes(2 * elements)
    packed = elements * quantization.bits // 8
    if quantization.block:
        rows, columns = quantization.block
        scales = 4 * math.ceil(linear.inputs / rows) * math.ceil(linear.outputs / columns)
        return allocated_bytes(packed) + allocated_bytes(scales)
    groups = math.ceil(linear.inputs / (quantization.group_size or linear.inputs))
    one_each = quantization.group_size is None and quantization.method != "gptq"
    scales = (4 if one_each else 2) * groups * linear.outputs  # float32 for a whole output
    # Of GPTQ, vLLM's Marlin kernel drops zero points and index after loading: measured, 0 bytes.
    kept_zeros = quantization.zero_points and quantization.method != "gptq"
    zeros = groups * linear.outputs * quantization.bits // 8 if kept_zeros else 0
    return sum(allocated_bytes(part) for part in (packed, scales, zeros))


def allocated_bytes(size: int) -> int:
    """Size a tensor as PyTorch's allocator counts it while vLLM loads a model.

    From 10 MiB on, a tensor gets an even number of MiB. Of what is left, more than 1 MiB is split
    off for others, but nothing from 20 MiB on: vLLM says so while it loads (max_split_size_mb in
    v1/worker/gpu_worker.py). Smaller tensors share 20 MiB, whose last MiB may stay unused
    (c10/cuda/CUDACachingAllocator.cpp). With matrices of odd sizes, as Qwen2.5 and Qwen3-32B
    have, that is up to 2 % of the weights (measured).
    """
    if size <= MIB:
        return size
    if size < _OWN_SEGMENT:
        return size + size * MIB // _SHARED_SEGMENT
    segment = math.ceil(size / (2 * MIB)) * 2 * MIB
    return size if size < _SHARED_SEGMENT and segment - size > MIB else segment


_OWN_SEGMENT: t.Final = 10 * MIB
_SHARED_SEGMENT: t.Final = 20 * MIB


def _embedding_bytes(architecture: Architecture) -> int:
    return allocated_bytes(_table_bytes(architecture))


def _table_bytes(architecture: Architecture) -> int:
    rows = math.ceil(architecture.vocab / VOCAB_ROWS) * VOCAB_ROWS
    return 2 * rows * architecture.hidden


def _head_bytes(architecture: Architecture) -> int:
    if architecture.tied:
        return 0
    size = _embedding_bytes(architecture)
    quantization = architecture.quantization
    return size * quantization.bits // 16 if quantization.lm_head else size


def _rotary_bytes(architecture: Architecture, use: Use) -> int:
    """Size the table of sines and cosines for every position, on every card.

    Where positions are scaled linearly, vLLM makes the table for the context times the factor
    (rotary_embedding/linear_scaling_rope.py), although nobody asks for positions that far out.
    """
    positions = max(architecture.context, use.context)
    tables = architecture.rotary_tables - 1 + architecture.rope_linear_factor
    return int(2 * tables * positions * architecture.head_dim)


def activation_bytes(architecture: Architecture, use: Use) -> int:
    """Size the largest working set of one step: the widest part of a layer, and the logits.

    In the MLP the gate and up results (2 x intermediate) and their product (1 x) live together
    with the layer's input and the residual; in the attention the queries, keys, values, the
    result and its projection do.
    """
    cards = use.tensor_parallel_size
    queries = architecture.heads * architecture.head_dim
    keys = architecture.kv_heads * architecture.head_dim
    mlp = 3 * architecture.intermediate // cards
    attention = (2 * queries + 2 * keys) // cards + architecture.hidden
    step = 2 * use.max_num_batched_tokens * (2 * architecture.hidden + max(mlp, attention))
    answers = use.sequences * architecture.vocab
    return step + int((LOGITS_BYTES + STATE_BYTES) * answers) + RUNNER_BYTES


def compile_bytes(architecture: Architecture, use: Use) -> int:
    """Size what the compiler takes for a moment, before there is a KV cache.

    To try its kernels, it makes itself an embedding of its own (torch/_inductor/codegen/wrapper.py,
    generate_and_run_autotune_block). Measured, vLLM 0.26.0: Qwen3-8B in AWQ asked for 1.16 GiB
    more on 8 GiB, and got no further.
    """
    return 0 if use.enforce_eager else _embedding_bytes(architecture) // use.tensor_parallel_size


def graph_bytes(architecture: Architecture, use: Use) -> int:
    """Size the recorded CUDA graphs, the driver's part included."""
    if use.enforce_eager:
        return 0
    each = GRAPH_BYTES_PER_LAYER_AND_SIZE + GRAPH_DRIVER_BYTES_PER_LAYER_AND_SIZE
    return GRAPH_BYTES_BASE + _recorded(architecture, use) * each


def _recorded(architecture: Architecture, use: Use) -> int:
    """Count graphs times layers: batches of decoding alone are recorded once more as a whole."""
    if use.enforce_eager:
        return 0
    sizes = graph_batch_sizes(use)
    decode_only = [size for size in sizes if size <= use.sequences]
    return architecture.layers * (len(sizes) + len(decode_only))


def graph_batch_sizes(use: Use) -> list[int]:
    """List the batch sizes that vLLM records (config/vllm.py, _set_cudagraph_sizes).

    1, 2, 4, then steps of 8, from 256 on of 16; max_num_seqs and max_num_batched_tokens as well
    where they are no larger.
    """
    most = min(2 * use.sequences, GRAPH_BATCH_LIMIT)
    steps = {1, 2, 4, *range(8, 256, 8), *range(256, GRAPH_BATCH_LIMIT + 1, 16)}
    sizes = steps | {use.sequences, use.max_num_batched_tokens}
    return sorted(size for size in sizes if size <= min(most, use.max_num_batched_tokens))


@dataclass(frozen=True)
class KvLayout:
    """How vLLM cuts the KV cache: blocks of some tokens for a group of layers.

    A model with layers that see all and layers that see a window has several groups of equally
    many layers, which share one pool of blocks (v1/core/kv_cache_utils.py).
    """

    block_tokens: int
    block_bytes: int
    full_groups: int
    sliding_groups: int
    window: int
    in_flight: int

    @classmethod
    def of(
        cls,
        architecture: Architecture,
        use: Use,
        block_tokens: int = BLOCK_TOKENS,
        batches: int = BATCHES_IN_FLIGHT,
    ) -> KvLayout:
        """Lay out the cache of a model."""
        sliding = architecture.sliding_layers
        full = architecture.layers - sliding
        kinds = [count for count in (full, sliding) if count]
        group = min(kinds)
        if max(kinds) < 1.5 * group:  # vLLM pads the smaller kind rather than split the larger
            group = max(kinds)
        heads = max(1, architecture.kv_heads // use.tensor_parallel_size)
        element = 1 if use.fp8_kv_cache else 2
        page = 2 * block_tokens * heads * architecture.head_dim * element
        return cls(
            block_tokens=block_tokens,
            block_bytes=page * group,
            full_groups=math.ceil(full / group),
            sliding_groups=math.ceil(sliding / group),
            window=architecture.window or 0,
            in_flight=batches * use.max_num_batched_tokens,
        )

    @property
    def bytes_per_token(self) -> int:
        """What one more token of a long chat costs: only layers that see all keep it."""
        groups = self.full_groups or self.sliding_groups
        return groups * self.block_bytes // self.block_tokens

    def blocks_per_chat(self, context: int) -> int:
        """Count the blocks that one chat of full length holds at most."""
        remembered = min(self.window - 1 + self.in_flight, context)
        sliding = math.ceil(remembered / self.block_tokens) + 1
        full = math.ceil(context / self.block_tokens)
        return self.full_groups * full + self.sliding_groups * sliding

    def tokens(self, blocks: int, context: int) -> int:
        """Count as vLLM's "GPU KV cache size" does."""
        return int(blocks / self.blocks_per_chat(context) * context)

    def longest_context(self, blocks: int, chats: int, most: int) -> int:
        """Find the longest context that so many chats can have at the same time."""
        low, high = 0, most // _STEP
        while low < high:
            middle = (low + high + 1) // 2
            needed = chats * self.blocks_per_chat(middle * _STEP) + _NULL_BLOCKS
            low, high = (middle, high) if needed <= blocks else (low, middle - 1)
        return low * _STEP


_NULL_BLOCKS = 1  # vLLM v1/core/block_pool.py keeps one block for itself


def _decode_ceiling(
    architecture: Architecture, card: Card, use: Use, layout: KvLayout
) -> float | None:
    """Divide the card's bandwidth by what each token reads: all weights and half a full chat."""
    if card.bandwidth_gb_s is None or use.cpu_offload_gib or architecture.known_weights:
        return None  # of an unknown architecture nobody knows how much a token reads
    unread = 0 if architecture.tied else _embedding_bytes(architecture) // use.tensor_parallel_size
    chat = layout.blocks_per_chat(use.context) * layout.block_bytes
    read = weight_bytes(architecture, use) - unread + chat // 2
    return card.bandwidth_gb_s * 1e9 / read


def _vllm_arguments(
    architecture: Architecture, use: Use, dtype: str, kv_cache: int, utilization: float
) -> dict[str, t.Any]:
    """Name everything that vLLM would else choose by the card it finds."""
    arguments: dict[str, t.Any] = {
        "dtype": dtype,
        "max-model-len": use.context,
        "max-num-seqs": use.sequences,
        "max-num-batched-tokens": use.max_num_batched_tokens,
        "block-size": BLOCK_TOKENS,
        "kv-cache-dtype": "fp8" if use.fp8_kv_cache else dtype,
        "kv-cache-memory-bytes": kv_cache,
        "gpu-memory-utilization": utilization,
        "tensor-parallel-size": use.tensor_parallel_size,
    }
    if use.cpu_offload_gib:
        arguments["cpu-offload-gb"] = use.cpu_offload_gib
    if use.context > architecture.context:
        arguments["hf-overrides"] = _stretched(architecture, use.context)
    if use.enforce_eager:
        arguments["enforce-eager"] = True
    if architecture.vision_elements and not use.image_inputs:
        arguments["language-model-only"] = True
    return arguments


def _stretched(architecture: Architecture, context: int) -> dict[str, t.Any]:
    """Stretch the positions by YaRN. Since vLLM 0.30 it needs max_position_embeddings as well."""
    return {
        "rope_parameters": {
            "rope_type": "yarn",
            "rope_theta": architecture.rope_theta,
            "factor": context / architecture.context,
            "original_max_position_embeddings": architecture.context,
        },
        "max_position_embeddings": context,
    }


# --- when it does not fit ---------------------------------------------------------------------


def _choices(architecture: Architecture, card: Card, use: Use, made: Plan) -> t.Iterator[Choice]:
    """Offer the single changes that make it fit, the mildest first."""
    if card.used_mib and _fits(architecture, replace(card, used_mib=0, free_mib=None), use):
        yield Choice(
            f"free the {card.used_mib} MiB that other programs hold",
            "no desktop or game on this card while it serves",
            {},
        )
    for choice in _lighter_uses(card, use, made):
        if _fits(architecture, card, replace(use, **choice.settings)):
            yield choice
    int4 = _in_int4(architecture)
    if int4:
        yield from _choice_of_int4(int4, card, use)
    for choice in _more_memory(architecture, card, use, made):
        if _fits(architecture, card, replace(use, **choice.settings)):
            yield choice


def _fits(architecture: Architecture, card: Card, use: Use) -> bool:
    return _sum(architecture, card, use, "", estimate=False).fits


def _lighter_uses(card: Card, use: Use, made: Plan) -> t.Iterator[Choice]:
    context = made.longest_context
    if context >= _LEAST_CONTEXT:
        yield Choice(f"a context of {context} tokens", "shorter chats", {"context": context})
    if use.chats > 1 and made.full_chats >= 1:
        chats = min(use.chats - 1, int(made.full_chats))
        plural = "" if chats == 1 else "s"
        what = f"{chats} chat{plural} of full length at once"
        yield Choice(what, "others wait", {"chats": chats})
    if not use.fp8_kv_cache and card.capability >= FP8_CAPABILITY:
        yield Choice("an FP8 KV cache", "slightly worse answers", {"fp8_kv_cache": True})
    yield Choice(
        "smaller batches",
        "long questions start slower, 4 answers at once",
        {
            "max_num_seqs": min(4, use.sequences),
            "max_num_batched_tokens": min(512, use.max_num_batched_tokens),
        },
    )
    if not use.enforce_eager:
        yield Choice("no CUDA graphs", "slower answers", {"enforce_eager": True})


def _more_memory(
    architecture: Architecture, card: Card, use: Use, made: Plan
) -> t.Iterator[Choice]:
    for cards in range(use.tensor_parallel_size + 1, card.count + 1):
        if architecture.heads % cards == 0:
            yield Choice(
                f"{cards} cards together",
                "they talk over the bus for every token",
                {"tensor_parallel_size": cards},
            )
    offload = use.cpu_offload_gib + math.ceil(made.missing / GIB)
    if offload * GIB < made.weights // 2:
        yield Choice(
            f"{offload} GiB of weights in the PC's own memory",
            "many times slower: they cross the bus for every token",
            {"cpu_offload_gib": offload},
        )


def _choice_of_int4(int4: Architecture, card: Card, use: Use) -> t.Iterator[Choice]:
    copy = f"a copy of the model in INT4 ({weight_bytes(int4, use) / GIB:.1f} GiB)"
    made = _sum(int4, card, use, "", estimate=False)
    if made.fits:
        yield Choice(copy, "slightly worse answers", {})
    elif made.longest_context >= _LEAST_CONTEXT and _fits(
        int4, card, replace(use, context=made.longest_context)
    ):
        yield Choice(
            f"{copy} with a context of {made.longest_context} tokens",
            "slightly worse answers, shorter chats",
            {"context": made.longest_context},
        )


def _in_int4(architecture: Architecture) -> Architecture | None:
    """Imagine a GPTQ copy with the usual group size of 128."""
    quantization = architecture.quantization
    if quantization.bits <= _INT4_BITS or architecture.known_weights is not None:
        return None
    gptq = replace(
        quantization,
        method="gptq",
        bits=_INT4_BITS,
        group_size=128,
        block=None,
        zero_points=True,
    )
    return replace(architecture, quantization=gptq)


_INT4_BITS = 4
