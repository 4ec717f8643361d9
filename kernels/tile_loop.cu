// tile_loop: what lets one captured CUDA graph be launched once for each batch of a frame's tiles.
//
// The launches of a graph have fixed addresses; what changes from batch to batch lies in tables on
// the device, and a cursor says how far the frame has come. A graph takes its rows, works, puts its
// rows, and advances the cursor; the host sets it to zero before a frame.
//
//   take_row   out[0 .. words) = table[(*cursor % ring_rows) * words ..]
//   put_row    table[(*cursor % ring_rows) * words ..] = row[0 .. words)
//   advance    *cursor += 1
//   lap        now - clock[0] is added to clock[index] where index > 0; then clock[0] = now
//
//   cursor     one int32, not negative
//   words      of 32 bits in a row: a region is 4, a batch of tiles 1e5 to 1e6. The buffers are
//              aligned to a word and do not overlap.
//   ring_rows  rows of the table, which begins again at its first; for a table of all rows, as many
//              as it has
//   clock      uint64, nanoseconds of the GPU's own timer: clock[0] the time of the last lap,
//              clock[i] what the work before the laps of index i has taken so far. Zero them first,
//              and begin with index 0. The timer's step is up to a microsecond, so that short work
//              is told by the sum of many laps.
//
// Bytes moved: take_row and put_row 8 x words, each read once and written once, and the cursor. A
// batch of four 256 x 256 RGB __half tiles is 393,216 words: 3.1 MB.
//
// Thread mapping: rows are copied as 16-byte vectors where both sides begin on one, and the up to 3
// words left as they are; elsewhere word by word. x alone, any grid is correct (the loops stride
// over it); one block of 256 threads for 1024 words, up to a few blocks for each multiprocessor.
// advance and lap: one thread.
#include "frame.cuh"

__device__ __forceinline__ void copy_words(const unsigned* __restrict__ from,
                                           unsigned* __restrict__ to, long long words) {
    typedef Vector<unsigned, 4> Quad;
    const long long thread = static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x;
    const long long step = static_cast<long long>(gridDim.x) * blockDim.x;
    long long copied = 0;
    if (((reinterpret_cast<size_t>(from) | reinterpret_cast<size_t>(to)) & 15) == 0) {
        const Quad* source = reinterpret_cast<const Quad*>(from);
        Quad* target = reinterpret_cast<Quad*>(to);
        for (long long i = thread; i < words / 4; i += step) target[i] = source[i];
        copied = words & ~3LL;
    }
    for (long long i = copied + thread; i < words; i += step) to[i] = from[i];
}

extern "C" __global__ void __launch_bounds__(256) take_row(const unsigned* __restrict__ table,
                                                           int words,
                                                           const int* __restrict__ cursor,
                                                           int ring_rows,
                                                           unsigned* __restrict__ out) {
    copy_words(table + static_cast<long long>(*cursor % ring_rows) * words, out, words);
}

extern "C" __global__ void __launch_bounds__(256) put_row(const unsigned* __restrict__ row,
                                                          int words,
                                                          const int* __restrict__ cursor,
                                                          int ring_rows,
                                                          unsigned* __restrict__ table) {
    copy_words(row, table + static_cast<long long>(*cursor % ring_rows) * words, words);
}

extern "C" __global__ void advance(int* cursor) { *cursor += 1; }

#ifdef __CUDACC__
__device__ __forceinline__ unsigned long long timer_ns() {
    unsigned long long now;
    asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(now));
    return now;
}
#endif

extern "C" __global__ void lap(unsigned long long* clock, int index) {
    const unsigned long long now = timer_ns();
    if (index > 0) clock[index] += now - clock[0];
    clock[0] = now;
}
