"""Which element a GPU thread takes: grids with a thread for each of n things, and division of thread numbers.

    grid = grid_of(N * H * W)
    foo_kernel[grid](divisor(W), ...)

    row = quotient(thread_number(), by_w)
    w = thread_number() - row * by_w[0]

Division takes 20 to 60 instructions, more than many kernels have for an element. By a number that the host
knows it is a multiplication and a shift (Granlund and Montgomery, Division by Invariant Integers using
Multiplication, PLDI 1994).
"""

from typing import Any

from numba import int32, int64

from nnkernels.machine.gpu_kernel import at, blocks_for, cuda, device_function, threads_for

Divisor = tuple[int, int, int]

LOW = 0xFFFFFFFF


def grid_of(n: int) -> tuple[int, int]:
    """Return blocks and threads, one thread for each of n things; few where n is small."""
    threads = threads_for(n)
    return blocks_for(n, threads), threads


@device_function
def thread_number() -> Any:
    """Return the number of this thread in the grid."""
    return int32(cuda.blockIdx.x * cuda.blockDim.x + cuda.threadIdx.x)


def divisor(n: int) -> Divisor:
    """Return what ``quotient`` needs to divide by n >= 1: n, a factor near 2^(31 + shift) / n, the shift.

    Rounding the factor up adds less than 1 / n to i / n, which therefore does not reach the next integer.
    """
    shift = (n - 1).bit_length()
    factor = -(-(2 ** (31 + shift)) // n)  # below 2^32
    return n, factor - 2**32 if factor >= 2**31 else factor, shift  # as int32 has its bits


@device_function
def divide(a: int, b: int) -> Any:
    """Return a // b of numbers that are not negative, by the division of 32 bits: Numba's own has 64."""
    return int32(at(a) // at(b))


def quotient(i: int, by: Divisor) -> Any:
    """Return i // n for 0 <= i < 2^31 and by = divisor(n), in a kernel."""
    return int32(at((int64(at(i)) * (int64(by[1]) & LOW)) >> 31) >> (by[2] & 31))  # & 31: a shift of 32 bits
