// What the tile kernels share for Y'CbCr frames of 8 bits: where the planes' bytes lie, and the
// colour matrix.
//
//   format   planes                                                 sizes
//   nv12     y (height, width), cb (height / 2, width / 2, 2)       even height and width
//   i420     y (height, width), cb and cr (height / 2, width / 2)   even height and width
//   yuyv     y (height, width / 2, 4): Y Cb Y Cr                    even width
//
// Every plane has its own pointer and pitch in bytes, of any alignment and sign; planes that a
// format lacks are not looked at (nv12: cr; yuyv: cb and cr). Odd sizes are refused by the host.
// Planes and pitches that are multiples of 4 bytes (i420 chroma: of 2) are the fast case.
//
// Chroma is repeated over the pixels that share it on load, and averaged over them on store. The
// one undoes the other: a pixel that the network leaves alone comes back with its code, whatever
// the siting of the frame's chroma (left for video, centre for JPEG), and no chroma sample depends
// on another tile. Interpolating would need the siting, would read beyond the tile's own samples,
// and would blur chroma a little each time a frame passes through.
//
// RGB is neither cut on load nor on store: codes beyond white, and chroma that no RGB in 0..1 has,
// come back as they were. Codes are cut to 0..255, not to the limited range, for the same reason.
//
// The matrices are passed by value and computed by the host in double precision. With kr, kb of the
// standard (BT.601: 0.299, 0.114; BT.709: 0.2126, 0.0722), kg = 1 - kr - kb, and black, luma and
// chroma ranges b, l, c (limited: 16, 219, 224; full: 0, 255, 255):
//
//   YuvToRgb   black b, luma 1/l, red_cr 2(1-kr)/c, green_cb -2kb(1-kb)/(kg c),
//              green_cr -2kr(1-kr)/(kg c), blue_cb 2(1-kb)/c
//   RgbToYuv   each over 255: black b, luma l*(kr, kg, kb), cb c/(2(1-kb)) * (-kr, -kg, 1-kb),
//              cr c/(2(1-kr)) * (1-kr, -kg, -kb)
#pragma once

#include "frame.cuh"

struct YuvToRgb { float black, luma, red_cr, green_cb, green_cr, blue_cb; };
struct RgbToYuv { float black, luma[3], cb[3], cr[3]; };

// Byte: const unsigned char, or unsigned char.
template <typename Byte>
struct Planes {
    Byte* y;
    long long y_pitch_bytes;
    Byte* cb;
    long long cb_pitch_bytes;
    Byte* cr;
    long long cr_pitch_bytes;
};

// The codes of a group of 4 pixels of one row as numbers, chroma once for each pixel and less 128.
struct Codes { float luma[4], cb[4], cr[4]; };

__device__ __forceinline__ float luma_of(unsigned word, int i) {
    return Depth<unsigned char>::biased(word, i) - 8388608.0f;
}

__device__ __forceinline__ float chroma_of(unsigned word, int i) {
    return Depth<unsigned char>::biased(word, i) - (8388608.0f + 128.0f);
}

// Codes of a word of luma and a word of two pixels' chroma: {Cb, Cr, Cb, Cr}.
__device__ __forceinline__ Codes codes_of(unsigned luma, unsigned chroma) {
    Codes codes;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        codes.luma[i] = luma_of(luma, i);
        codes.cb[i] = chroma_of(chroma, i & 2);
        codes.cr[i] = chroma_of(chroma, i | 1);
    }
    return codes;
}

// Writes bytes first..last - 1 of the lowest of a word: as one where they are whole and aligned.
template <typename Unit>
__device__ __forceinline__ void write_bytes(unsigned char* out, unsigned word, int first,
                                            int last) {
    constexpr int count = sizeof(Unit);
    if (first == 0 && last == count && reinterpret_cast<size_t>(out) % count == 0) {
        *reinterpret_cast<Unit*>(out) = static_cast<Unit>(word);
        return;
    }
#pragma unroll
    for (int i = 0; i < count; ++i) {
        if (i >= first && i < last) out[i] = static_cast<unsigned char>(word >> (8 * i));
    }
}

typedef Vector<unsigned, 2> Pair;

// Luma of the formats that keep it in a plane of its own, nv12 and i420: words of 4 pixels from x
// on, a word for each row from y on.
template <int rows>
__device__ __forceinline__ void read_luma(const Planes<const unsigned char>& frame, int x, int y,
                                          unsigned (&luma)[rows]) {
    const unsigned char* row = frame.y + y * frame.y_pitch_bytes + x;
#pragma unroll
    for (int i = 0; i < rows; ++i) luma[i] = *row_at<unsigned>(row, frame.y_pitch_bytes, i);
}

template <int rows>
__device__ __forceinline__ void write_luma(const Planes<unsigned char>& frame, int x, int y,
                                           const unsigned (&luma)[rows], int first, int last) {
#pragma unroll
    for (int i = 0; i < rows; ++i) {
        unsigned char* row = frame.y + (y + i) * frame.y_pitch_bytes;
        write_bytes<unsigned>(row + x, luma[i], first, last);
    }
}

// Both words of 8 pixels in each of the i-th rows that share chroma.
template <int rows>
__device__ __forceinline__ void write_luma_pairs(unsigned char* luma, long long pitch_bytes, int i,
                                                 const Pair (&words)[rows]) {
#pragma unroll
    for (int j = 0; j < rows; ++j) {
        write_vector(row_at<Pair>(luma, pitch_bytes, i * rows + j), words[j]);
    }
}

// A format says how many rows share a chroma sample, and how codes are read and written:
//   straight     whether the 4 pixels from x, y on lie in whole words of every plane, and with them
//                those that lie multiples of 4 columns and of 2 rows away
//   Rows         the words of `count` such rows: read without a branch, then taken apart row by row
//   Target       where 8 pixels from x on lie in rows from y on: `write` takes the words of both
//                groups of the i-th rows that share chroma. They must fit: the planes lie in whole
//                pairs of words (i420 chroma: words) from x, a multiple of 8, on
//   read_group   4 pixels from an even x on, as words; false, and nothing of meaning is read, where
//                they do not lie so in the row
//   read_pixel   pixel i of `codes`
//   write        pixels first..last - 1 of 4, first and last even, in the rows that share chroma: a
//                word of luma for each row, and {Cb, Cr} of the first two pixels and the others
struct Nv12 {
    enum { rows = 2 };

    static __device__ __forceinline__ bool straight(const Planes<const unsigned char>& frame, int x,
                                                    int y) {
        return x % 2 == 0 && y % 2 == 0 && aligned(frame.y + x, frame.y_pitch_bytes, 4) &&
               aligned(frame.cb + x, frame.cb_pitch_bytes, 4);
    }

    template <int count>
    struct Rows {
        unsigned luma[count], chroma[count / 2];

        __device__ __forceinline__ void read(const Planes<const unsigned char>& frame, int x,
                                             int y) {
            const unsigned char* chroma_row = frame.cb + (y >> 1) * frame.cb_pitch_bytes + x;
            read_luma(frame, x, y, luma);
#pragma unroll
            for (int i = 0; i < count / 2; ++i) {
                chroma[i] = *row_at<unsigned>(chroma_row, frame.cb_pitch_bytes, i);
            }
        }
        __device__ __forceinline__ Codes codes(int i) const {
            return codes_of(luma[i], chroma[i / 2]);
        }
    };

    class Target {
    public:
        static __device__ __forceinline__ bool fits(const Planes<unsigned char>& frame, int x) {
            return aligned(frame.y + x, frame.y_pitch_bytes, 8) &&
                   aligned(frame.cb + x, frame.cb_pitch_bytes, 8);
        }
        __device__ __forceinline__ Target(const Planes<unsigned char>& frame, int x, int y)
            : luma_(frame.y + y * frame.y_pitch_bytes + x),
              chroma_(frame.cb + (y >> 1) * frame.cb_pitch_bytes + x),
              luma_pitch_bytes_(frame.y_pitch_bytes), chroma_pitch_bytes_(frame.cb_pitch_bytes) {}
        __device__ __forceinline__ void write(int i, const Pair (&luma)[rows],
                                              const Pair& chroma) const {
            write_luma_pairs(luma_, luma_pitch_bytes_, i, luma);
            write_vector(row_at<Pair>(chroma_, chroma_pitch_bytes_, i), chroma);
        }

    private:
        unsigned char *luma_, *chroma_;
        long long luma_pitch_bytes_, chroma_pitch_bytes_;
    };

    static __device__ __forceinline__ bool read_group(const Planes<const unsigned char>& frame,
                                                      int x, int y, int width, Codes& codes) {
        const unsigned char* row = frame.y + y * frame.y_pitch_bytes;
        const unsigned char* chroma_row = frame.cb + (y >> 1) * frame.cb_pitch_bytes;
        unsigned luma[1], chroma[1];
        if (!read_words(row, x, width, luma) || !read_words(chroma_row, x, width, chroma)) {
            return false;
        }
        codes = codes_of(luma[0], chroma[0]);
        return true;
    }
    static __device__ __forceinline__ void read_pixel(const Planes<const unsigned char>& frame,
                                                      int x, int y, int i, Codes& codes) {
        const unsigned char* chroma = frame.cb + (y >> 1) * frame.cb_pitch_bytes + (x & ~1);
        codes.luma[i] = luma_of(frame.y[y * frame.y_pitch_bytes + x], 0);
        codes.cb[i] = chroma_of(chroma[0], 0);
        codes.cr[i] = chroma_of(chroma[1], 0);
    }
    static __device__ __forceinline__ void write(const Planes<unsigned char>& frame, int x, int y,
                                                 const unsigned (&luma)[rows], unsigned chroma,
                                                 int first, int last) {
        write_luma(frame, x, y, luma, first, last);
        unsigned char* chroma_row = frame.cb + (y >> 1) * frame.cb_pitch_bytes;
        write_bytes<unsigned>(chroma_row + x, chroma, first, last);
    }
};

struct I420 {
    enum { rows = 2 };

    static __device__ __forceinline__ bool straight(const Planes<const unsigned char>& frame, int x,
                                                    int y) {
        return x % 2 == 0 && y % 2 == 0 && aligned(frame.y + x, frame.y_pitch_bytes, 4) &&
               aligned(frame.cb + (x >> 1), frame.cb_pitch_bytes, 2) &&
               aligned(frame.cr + (x >> 1), frame.cr_pitch_bytes, 2);
    }

    template <int count>
    struct Rows {
        unsigned luma[count];
        unsigned short cb[count / 2], cr[count / 2];

        __device__ __forceinline__ void read(const Planes<const unsigned char>& frame, int x,
                                             int y) {
            const unsigned char* cb_row = frame.cb + (y >> 1) * frame.cb_pitch_bytes + (x >> 1);
            const unsigned char* cr_row = frame.cr + (y >> 1) * frame.cr_pitch_bytes + (x >> 1);
            read_luma(frame, x, y, luma);
#pragma unroll
            for (int i = 0; i < count / 2; ++i) {
                cb[i] = *row_at<unsigned short>(cb_row, frame.cb_pitch_bytes, i);
                cr[i] = *row_at<unsigned short>(cr_row, frame.cr_pitch_bytes, i);
            }
        }
        __device__ __forceinline__ Codes codes(int i) const {
            return codes_of(luma[i], __byte_perm(cb[i / 2], cr[i / 2], 0x5140));
        }
    };

    class Target {
    public:
        static __device__ __forceinline__ bool fits(const Planes<unsigned char>& frame, int x) {
            return aligned(frame.y + x, frame.y_pitch_bytes, 8) &&
                   aligned(frame.cb + (x >> 1), frame.cb_pitch_bytes, 4) &&
                   aligned(frame.cr + (x >> 1), frame.cr_pitch_bytes, 4);
        }
        __device__ __forceinline__ Target(const Planes<unsigned char>& frame, int x, int y)
            : luma_(frame.y + y * frame.y_pitch_bytes + x),
              cb_(frame.cb + (y >> 1) * frame.cb_pitch_bytes + (x >> 1)),
              cr_(frame.cr + (y >> 1) * frame.cr_pitch_bytes + (x >> 1)),
              luma_pitch_bytes_(frame.y_pitch_bytes), cb_pitch_bytes_(frame.cb_pitch_bytes),
              cr_pitch_bytes_(frame.cr_pitch_bytes) {}
        __device__ __forceinline__ void write(int i, const Pair (&luma)[rows],
                                              const Pair& chroma) const {
            write_luma_pairs(luma_, luma_pitch_bytes_, i, luma);
            const unsigned first = chroma.values[0], second = chroma.values[1];
            __stwb(row_at<unsigned>(cb_, cb_pitch_bytes_, i), __byte_perm(first, second, 0x6420));
            __stwb(row_at<unsigned>(cr_, cr_pitch_bytes_, i), __byte_perm(first, second, 0x7531));
        }

    private:
        unsigned char *luma_, *cb_, *cr_;
        long long luma_pitch_bytes_, cb_pitch_bytes_, cr_pitch_bytes_;
    };

    static __device__ __forceinline__ bool read_group(const Planes<const unsigned char>& frame,
                                                      int x, int y, int width, Codes& codes) {
        unsigned luma[1];
        if (!read_words(frame.y + y * frame.y_pitch_bytes, x, width, luma)) return false;
        const unsigned char* cb = frame.cb + (y >> 1) * frame.cb_pitch_bytes + (x >> 1);
        const unsigned char* cr = frame.cr + (y >> 1) * frame.cr_pitch_bytes + (x >> 1);
        codes = codes_of(luma[0], bytes_of(cb[0], cr[0], cb[1], cr[1]));
        return true;
    }
    static __device__ __forceinline__ void read_pixel(const Planes<const unsigned char>& frame,
                                                      int x, int y, int i, Codes& codes) {
        codes.luma[i] = luma_of(frame.y[y * frame.y_pitch_bytes + x], 0);
        codes.cb[i] = chroma_of(frame.cb[(y >> 1) * frame.cb_pitch_bytes + (x >> 1)], 0);
        codes.cr[i] = chroma_of(frame.cr[(y >> 1) * frame.cr_pitch_bytes + (x >> 1)], 0);
    }
    static __device__ __forceinline__ void write(const Planes<unsigned char>& frame, int x, int y,
                                                 const unsigned (&luma)[rows], unsigned chroma,
                                                 int first, int last) {
        write_luma(frame, x, y, luma, first, last);
        unsigned char* cb = frame.cb + (y >> 1) * frame.cb_pitch_bytes + (x >> 1);
        unsigned char* cr = frame.cr + (y >> 1) * frame.cr_pitch_bytes + (x >> 1);
        write_bytes<unsigned short>(cb, __byte_perm(chroma, 0, 0x4420), first >> 1, last >> 1);
        write_bytes<unsigned short>(cr, __byte_perm(chroma, 0, 0x4431), first >> 1, last >> 1);
    }
};

struct Yuyv {
    enum { rows = 1 };

    static __device__ __forceinline__ Codes codes_of(const unsigned (&words)[2]) {
        return ::codes_of(__byte_perm(words[0], words[1], 0x6420),
                          __byte_perm(words[0], words[1], 0x7531));
    }

    static __device__ __forceinline__ bool straight(const Planes<const unsigned char>& frame, int x,
                                                    int) {
        return x % 2 == 0 && aligned(frame.y + 2LL * x, frame.y_pitch_bytes, Words<2>::bytes);
    }

    template <int count>
    struct Rows {
        unsigned words[count][2];

        __device__ __forceinline__ void read(const Planes<const unsigned char>& frame, int x,
                                             int y) {
            const unsigned char* row = frame.y + y * frame.y_pitch_bytes + 2LL * x;
#pragma unroll
            for (int i = 0; i < count; ++i) {
                Words<2>::read(row_at<unsigned char>(row, frame.y_pitch_bytes, i), words[i]);
            }
        }
        __device__ __forceinline__ Codes codes(int i) const { return codes_of(words[i]); }
    };

    class Target {
    public:
        static __device__ __forceinline__ bool fits(const Planes<unsigned char>& frame, int x) {
            return aligned(frame.y + 2LL * x, frame.y_pitch_bytes, 16);
        }
        __device__ __forceinline__ Target(const Planes<unsigned char>& frame, int x, int y)
            : out_(frame.y + y * frame.y_pitch_bytes + 2LL * x),
              pitch_bytes_(frame.y_pitch_bytes) {}
        __device__ __forceinline__ void write(int i, const Pair (&luma)[rows],
                                              const Pair& chroma) const {
            Vector<unsigned, 4> words;
#pragma unroll
            for (int j = 0; j < 2; ++j) {
                words.values[2 * j] = __byte_perm(luma[0].values[j], chroma.values[j], 0x5140);
                words.values[2 * j + 1] = __byte_perm(luma[0].values[j], chroma.values[j], 0x7362);
            }
            write_vector(row_at<unsigned char>(out_, pitch_bytes_, i), words);
        }

    private:
        unsigned char* out_;
        long long pitch_bytes_;
    };

    static __device__ __forceinline__ bool read_group(const Planes<const unsigned char>& frame,
                                                      int x, int y, int width, Codes& codes) {
        unsigned words[2];
        if (!read_words(frame.y + y * frame.y_pitch_bytes, x, width, words)) return false;
        codes = codes_of(words);
        return true;
    }
    static __device__ __forceinline__ void read_pixel(const Planes<const unsigned char>& frame,
                                                      int x, int y, int i, Codes& codes) {
        const unsigned char* pair = frame.y + y * frame.y_pitch_bytes + 2LL * (x & ~1);
        codes.luma[i] = luma_of(pair[2 * (x & 1)], 0);
        codes.cb[i] = chroma_of(pair[1], 0);
        codes.cr[i] = chroma_of(pair[3], 0);
    }
    static __device__ __forceinline__ void write(const Planes<unsigned char>& frame, int x, int y,
                                                 const unsigned (&luma)[rows], unsigned chroma,
                                                 int first, int last) {
        unsigned char* row = frame.y + y * frame.y_pitch_bytes + 2LL * x;
        if (first == 0) write_bytes<unsigned>(row, __byte_perm(luma[0], chroma, 0x5140), 0, 4);
        if (last == 4) write_bytes<unsigned>(row + 4, __byte_perm(luma[0], chroma, 0x7362), 0, 4);
    }
};

// KERNEL(name, Format, Value) for every Y'CbCr frame and type of tiles.
#define ALL_YUV_FRAMES(KERNEL)                                                                     \
    KERNEL(nv12_u8_f16, Nv12, __half)                                                              \
    KERNEL(nv12_u8_f32, Nv12, float)                                                               \
    KERNEL(i420_u8_f16, I420, __half)                                                              \
    KERNEL(i420_u8_f32, I420, float)                                                               \
    KERNEL(yuyv_u8_f16, Yuyv, __half)                                                              \
    KERNEL(yuyv_u8_f32, Yuyv, float)
