"""Products of matrices of signs, by counting bits: ``x w^T = n - 2 popcount(x xor w)``.

Signs are bits (1: +1), eight to a byte. The weights lie in blocks of 32 rows: a vector of 32 bytes holds eight inputs of every
row of a block, so that counts stay in bytes, one a row, for as long as they fit (31 steps), and nothing is added up across a
vector. A byte of ``x`` meets such a vector in

    popcount(x xor w) = T[x & 15][w & 15] + T[x >> 4][w >> 4]        T[a][b] = popcount(a xor b)

and a table of 16 bytes is what ``pshufb`` looks up 32 times in one instruction (AVX2): the vector of weights is split into halves
once for several rows of ``x``. Elsewhere the same is a xor and LLVM's ``ctpop`` on bytes.
"""

from __future__ import annotations

from typing import Any

import llvmlite.binding
import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils, config
from numba.extending import intrinsic
from numpy.typing import NDArray

ROWS = 32  # of weights in a block: bytes of a vector
PAIR = 2  # blocks at a time
STEPS = 31  # counts of at most 8 a byte fit into a byte
LARGEST = 65535  # inputs: counts fit 16 bits

I8, I16, I32, I64 = (ir.IntType(bits) for bits in (8, 16, 32, 64))
BYTES, WORDS = ir.VectorType(I8, ROWS), ir.VectorType(I16, ROWS // 2)
HALF = ir.VectorType(I8, 16)
# for each value of a byte the table of its lower, then of its upper half
TABLES = bytes((x >> 4 * half & 15 ^ b).bit_count() for half in (0, 1) for x in range(256) for b in range(16))
# a sum of bytes is split into its even and its odd ones: rows are laid out so that these are the first and the last 16
ORDER = np.arange(ROWS).reshape(2, -1).T.reshape(-1)


def has_lookup() -> bool:
    """Whether code made here may use AVX2."""
    if config.CPU_NAME is not None or config.CPU_FEATURES is not None:
        return "+avx2" in (config.CPU_FEATURES or "")
    return bool(llvmlite.binding.get_host_cpu_features().get("avx2"))


def _constant(kind: ir.VectorType, value: float) -> ir.Constant:
    return ir.Constant(kind, [value] * kind.count)


def _at(b: Any, pointer: Any, offset: Any, kind: Any) -> Any:
    """``pointer + offset`` bytes, as a pointer to ``kind``."""
    return b.bitcast(b.gep(pointer, [offset]), kind.as_pointer())


def _counts(b: Any, weights: list, x: Any, lookup: bool) -> list:
    """For one byte ``x`` and each vector of weights, how many of the eight bits differ, by row."""
    if not lookup:
        pop = cgutils.get_or_insert_function(b.module, ir.FunctionType(BYTES, [BYTES]), "llvm.ctpop.v32i8")
        one = b.insert_element(ir.Constant(BYTES, ir.Undefined), x, I32(0))
        all_x = b.shuffle_vector(one, ir.Constant(BYTES, ir.Undefined), _constant(ir.VectorType(I32, ROWS), 0))
        return [b.call(pop, [b.xor(w, all_x)]) for w in weights]
    shuffle = cgutils.get_or_insert_function(b.module, ir.FunctionType(BYTES, [BYTES, BYTES]), "llvm.x86.avx2.pshuf.b")
    tables = b.bitcast(cgutils.global_constant(b, "taut_popcounts", ir.Constant(ir.ArrayType(I8, 8192), bytearray(TABLES))),
                       I8.as_pointer())  # fmt: skip
    place = b.shl(b.zext(x, I64), I64(4))
    both = ir.Constant(ir.VectorType(I32, ROWS), [*range(16), *range(16)])
    found = []
    for half in (0, 1):
        table = b.load(_at(b, tables, b.add(place, I64(4096 * half)), HALF), align=16)
        table = b.shuffle_vector(table, ir.Constant(HALF, ir.Undefined), both)
        found.append([b.call(shuffle, [table, w[half]]) for w in weights])
    return [b.add(low, high) for low, high in zip(*found, strict=True)]


def _data(context: Any, b: Any, kind: Any, array: Any) -> Any:
    """Where an array lies. Arrays are handed on as arrays: of one whose address alone is used numba frees the memory."""
    return context.make_array(kind)(context, b, array).data


def _halves(b: Any, w: Any) -> tuple[Any, Any]:
    """The lower and the upper four bits of each byte."""
    low = _constant(BYTES, 15)
    upper = b.bitcast(b.lshr(b.bitcast(w, WORDS), _constant(WORDS, 4)), BYTES)
    return b.and_(w, low), b.and_(upper, low)


def _tile(columns: int, pairs: int = 1) -> Any:
    """Counts for ``pairs`` of blocks and ``columns`` rows of ``x`` from ``at`` on, over all steps: ``(columns, 64 pairs)``."""
    blocks = PAIR * pairs

    @intrinsic
    def tile(typing: Any, w: Any, x: Any, at: Any, steps: Any, counts: Any) -> Any:
        def make(context: Any, b: Any, signature: Any, args: Any) -> Any:
            w, steps = b.inttoptr(args[0], I8.as_pointer()), args[3]
            x = b.gep(_data(context, b, signature.args[1], args[1]), [args[2]])
            counts = b.bitcast(_data(context, b, signature.args[4], args[4]), I8.as_pointer())
            lookup = has_lookup()
            sums = [[cgutils.alloca_once(b, BYTES) for _ in range(blocks)] for _ in range(columns)]
            totals = [cgutils.alloca_once(b, WORDS) for _ in range(2 * blocks * columns)]
            for total in totals:
                b.store(ir.Constant(WORDS, None), total)
            with cgutils.for_range(b, b.udiv(b.add(steps, I64(STEPS - 1)), I64(STEPS))) as chunk:
                for total in (s for row in sums for s in row):
                    b.store(ir.Constant(BYTES, None), total)
                first = b.mul(chunk.index, I64(STEPS))
                left = b.sub(steps, first)
                with cgutils.for_range(b, b.select(b.icmp_signed("<", left, I64(STEPS)), left, I64(STEPS))) as loop:
                    step = b.add(first, loop.index)
                    at = b.mul(step, I64(PAIR * ROWS))
                    starts = [b.add(at, b.mul(steps, I64(PAIR * ROWS * pair))) for pair in range(pairs)]
                    places = [b.add(start, I64(ROWS * i)) for start in starts for i in range(PAIR)]
                    weights = [b.load(_at(b, w, place, BYTES), align=1) for place in places]
                    weights = [_halves(b, v) for v in weights] if lookup else weights
                    for c in range(columns):
                        byte = b.load(b.gep(x, [b.add(step, b.mul(steps, I64(c)))]))
                        for total, found in zip(sums[c], _counts(b, weights, byte, lookup), strict=True):
                            b.store(b.add(b.load(total), found), total)
                for i, total in enumerate(s for row in sums for s in row):
                    wide = b.bitcast(b.load(total), WORDS)
                    for half, part in enumerate((b.and_(wide, _constant(WORDS, 255)), b.lshr(wide, _constant(WORDS, 8)))):
                        b.store(b.add(b.load(totals[2 * i + half]), part), totals[2 * i + half])
            for i, total in enumerate(totals):
                b.store(b.load(total), _at(b, counts, I64(ROWS * i), WORDS), align=2)
            return context.get_dummy_value()

        return types.void(types.intp, x, types.intp, types.intp, counts), make

    return tile


_tile_1, _tile_2, _tile_4, _tile_wide = _tile(1), _tile(2), _tile(4), _tile(1, 2)


def _signs(real: Any, width: int) -> Any:
    """The signs of ``width`` numbers from ``at`` on, as bits, and in the byte above them which are neither -1 nor 1."""

    @intrinsic
    def signs(typing: Any, x: Any, at: Any) -> Any:
        def make(context: Any, b: Any, signature: Any, args: Any) -> Any:
            vector = ir.VectorType(context.get_value_type(real), width)
            x = b.load(_element(context, b, real, args[0], args[1], vector), align=real.bitwidth // 8)
            name = f"llvm.fabs.v{width}f{real.bitwidth}"
            size = b.call(cgutils.get_or_insert_function(b.module, ir.FunctionType(vector, [vector]), name), [x])
            one = b.fcmp_ordered(">=", x, _constant(vector, 0.0))
            wrong = b.fcmp_unordered("!=", size, _constant(vector, 1.0))
            bits = [b.zext(b.bitcast(v, ir.IntType(width)), I64) for v in (one, wrong)]
            return b.or_(bits[0], b.shl(bits[1], I64(8)))

        return types.intp(types.intp, types.intp), make

    return signs


def _outputs(real: Any, width: int) -> Any:
    """Write ``width`` outputs, ``(n - 2 count) scale + bias``, from the row ``at`` of a pair on; counts from ``first`` on."""

    @intrinsic
    def outputs(typing: Any, counts: Any, first: Any, out: Any, n: Any, at: Any, scales: Any, bias: Any) -> Any:
        def make(context: Any, b: Any, signature: Any, args: Any) -> Any:
            _, first, out, n, at, scales, bias = args
            vector = ir.VectorType(context.get_value_type(real), width)
            place = b.gep(_data(context, b, signature.args[0], args[0]), [b.add(first, at)])
            count = b.load(b.bitcast(place, ir.VectorType(I16, width).as_pointer()), align=2)
            wide = ir.VectorType(I32, width)
            total = b.insert_element(ir.Constant(wide, ir.Undefined), b.trunc(n, I32), I32(0))
            total = b.shuffle_vector(total, ir.Constant(wide, ir.Undefined), _constant(wide, 0))
            value = b.sitofp(b.sub(total, b.shl(b.zext(count, wide), _constant(wide, 1))), vector)
            align = real.bitwidth // 8
            scale, shift = (b.load(_element(context, b, real, p, at, vector), align=align) for p in (scales, bias))
            b.store(b.fadd(b.fmul(value, scale), shift), _element(context, b, real, out, at, vector), align=align)
            return context.get_dummy_value()

        return types.void(counts, *[types.intp] * 6), make

    return outputs


def _element(context: Any, b: Any, real: Any, pointer: Any, at: Any, kind: Any) -> Any:
    """Where the number ``at`` after ``pointer`` lies, as a pointer to ``kind``."""
    return b.bitcast(b.gep(b.inttoptr(pointer, context.get_value_type(real).as_pointer()), [at]), kind.as_pointer())


def _functions(real: Any) -> tuple[Any, Any, Any]:
    """``pack``, ``multiply`` and both at once, for numbers of one type; all arguments are addresses and counts."""
    eight, one, write_8, write_1 = _signs(real, 8), _signs(real, 1), _outputs(real, 8), _outputs(real, 1)

    @njit
    def pack(x: int, m: int, n: int, packed: NDArray[np.uint8]) -> bool:
        wrong, place = 0, 0
        for row in range(m):
            at = row * n
            for _ in range(n // 8):
                found = eight(x, at)
                packed[place] = found & 255
                wrong |= found >> 8
                place, at = place + 1, at + 8
            if n % 8:
                byte = 0
                for bit in range(n % 8):
                    found = one(x, at + bit)
                    byte |= (found & 1) << bit
                    wrong |= found >> 8
                packed[place] = byte
                place += 1
        return wrong == 0

    @njit
    def multiply(
        x: NDArray[np.uint8], m: int, n: int, steps: int, weights: int, rows: int, scales: int, bias: int, out: int
    ) -> None:
        counts = np.empty(4 * PAIR * ROWS, np.uint16)
        first = 0
        while first < rows:
            # a row alone: the tables of a byte are read once for twice as many blocks
            width = PAIR * ROWS * (2 if m == 1 and rows - first > PAIR * ROWS else 1)
            w, live = weights + first * steps, min(rows - first, width)
            row = 0
            while row < m:
                many = 4 if m - row >= 4 else 2 if m - row >= 2 else 1
                if width > PAIR * ROWS:
                    _tile_wide(w, x, row * steps, steps, counts)
                elif many == 4:
                    _tile_4(w, x, row * steps, steps, counts)
                elif many == 2:
                    _tile_2(w, x, row * steps, steps, counts)
                else:
                    _tile_1(w, x, row * steps, steps, counts)
                for c in range(many):
                    begin, to = c * PAIR * ROWS, out + size * ((row + c) * rows + first)
                    at = 0
                    while at + 8 <= live:
                        write_8(counts, begin, to, n, at, scales + size * first, bias + size * first)
                        at += 8
                    while at < live:
                        write_1(counts, begin, to, n, at, scales + size * first, bias + size * first)
                        at += 1
                row += many
            first += width

    @njit
    def linear(x: int, m: int, n: int, weights: int, rows: int, scales: int, bias: int, out: int) -> bool:
        steps = -(-n // 8)
        packed = np.empty(m * steps, np.uint8)
        fine = pack(x, m, n, packed)
        if fine:
            multiply(packed, m, n, steps, weights, rows, scales, bias, out)
        return fine

    size = real.bitwidth // 8
    return pack, multiply, linear


FUNCTIONS = {np.dtype(np.float32): _functions(types.float32), np.dtype(np.float64): _functions(types.float64)}


def lay_out(bits: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """The bits ``(rows, inputs)`` of a matrix of weights as the kernels read them: ``(pairs, steps, 2, 32)`` bytes.

    Example:
        >>> lay_out(np.ones((100, 20), dtype=bool)).shape
        (2, 3, 2, 32)
    """
    packed = np.packbits(bits, axis=1, bitorder="little")
    pairs = -(-len(packed) // (PAIR * ROWS))
    filled = np.zeros((pairs * PAIR * ROWS, packed.shape[1]), dtype=np.uint8)
    filled[: len(packed)] = packed
    return np.ascontiguousarray(filled.reshape(pairs, PAIR, ROWS, -1)[:, :, ORDER].transpose(0, 3, 1, 2))
