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
//   RgbToYuv   black b, luma l*(kr, kg, kb), cb c/(2(1-kb)) * (-kr, -kg, 1-kb),
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

// The codes of a group of 4 pixels of one row: chroma once for each pixel.
struct Codes { unsigned char y[4], cb[4], cr[4]; };

// Writes bytes first..last - 1 of a vector: as one where it is whole and aligned.
template <int count>
__device__ __forceinline__ void write_bytes(unsigned char* out, const unsigned char (&bytes)[count],
                                            int first, int last) {
    typedef Vector<unsigned char, count> Vec;
    if (first == 0 && last == count && reinterpret_cast<size_t>(out) % count == 0) {
        Vec vector;
#pragma unroll
        for (int i = 0; i < count; ++i) vector.values[i] = bytes[i];
        *reinterpret_cast<Vec*>(out) = vector;
        return;
    }
#pragma unroll
    for (int i = 0; i < count; ++i) {
        if (i >= first && i < last) out[i] = bytes[i];
    }
}

// A format says how many rows share a chroma sample, and how codes are read and written:
//   read_group   4 pixels from an even x on, as words; false, and nothing of meaning is read, where
//                they do not lie so in the row
//   read_pixel   one pixel
//   write        pixels first..last - 1 of 4, first and last even, in the rows that share chroma:
//                {Cb, Cr} of the first two pixels, {Cb, Cr} of the others
struct Nv12 {
    enum { rows = 2 };

    static __device__ __forceinline__ bool read_group(const Planes<const unsigned char>& frame,
                                                      int x, int y, int width, Codes& codes) {
        const unsigned char* row = frame.y + y * frame.y_pitch_bytes;
        const unsigned char* chroma_row = frame.cb + (y >> 1) * frame.cb_pitch_bytes;
        unsigned char chroma[4];
        if (!read_words<unsigned char, 1>(row, x, width, codes.y) ||
            !read_words<unsigned char, 1>(chroma_row, x, width, chroma)) {
            return false;
        }
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            codes.cb[i] = chroma[i & 2];
            codes.cr[i] = chroma[i | 1];
        }
        return true;
    }
    static __device__ __forceinline__ void read_pixel(const Planes<const unsigned char>& frame,
                                                      int x, int y, unsigned char& luma,
                                                      unsigned char& cb, unsigned char& cr) {
        const unsigned char* chroma = frame.cb + (y >> 1) * frame.cb_pitch_bytes + (x & ~1);
        luma = frame.y[y * frame.y_pitch_bytes + x];
        cb = chroma[0];
        cr = chroma[1];
    }
    static __device__ __forceinline__ void write(const Planes<unsigned char>& frame, int x, int y,
                                                 const unsigned char (&luma)[rows][4],
                                                 const unsigned char (&chroma)[4], int first,
                                                 int last) {
#pragma unroll
        for (int i = 0; i < rows; ++i) {
            write_bytes(frame.y + (y + i) * frame.y_pitch_bytes + x, luma[i], first, last);
        }
        write_bytes(frame.cb + (y >> 1) * frame.cb_pitch_bytes + x, chroma, first, last);
    }
};

struct I420 {
    enum { rows = 2 };

    static __device__ __forceinline__ bool read_group(const Planes<const unsigned char>& frame,
                                                      int x, int y, int width, Codes& codes) {
        const unsigned char* row = frame.y + y * frame.y_pitch_bytes;
        if (!read_words<unsigned char, 1>(row, x, width, codes.y)) return false;
        const unsigned char* cb = frame.cb + (y >> 1) * frame.cb_pitch_bytes + (x >> 1);
        const unsigned char* cr = frame.cr + (y >> 1) * frame.cr_pitch_bytes + (x >> 1);
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            codes.cb[i] = cb[i >> 1];
            codes.cr[i] = cr[i >> 1];
        }
        return true;
    }
    static __device__ __forceinline__ void read_pixel(const Planes<const unsigned char>& frame,
                                                      int x, int y, unsigned char& luma,
                                                      unsigned char& cb, unsigned char& cr) {
        luma = frame.y[y * frame.y_pitch_bytes + x];
        cb = frame.cb[(y >> 1) * frame.cb_pitch_bytes + (x >> 1)];
        cr = frame.cr[(y >> 1) * frame.cr_pitch_bytes + (x >> 1)];
    }
    static __device__ __forceinline__ void write(const Planes<unsigned char>& frame, int x, int y,
                                                 const unsigned char (&luma)[rows][4],
                                                 const unsigned char (&chroma)[4], int first,
                                                 int last) {
#pragma unroll
        for (int i = 0; i < rows; ++i) {
            write_bytes(frame.y + (y + i) * frame.y_pitch_bytes + x, luma[i], first, last);
        }
        const unsigned char cb[2] = {chroma[0], chroma[2]};
        const unsigned char cr[2] = {chroma[1], chroma[3]};
        const long long row = y >> 1;
        const int column = x >> 1;
        write_bytes(frame.cb + row * frame.cb_pitch_bytes + column, cb, first >> 1, last >> 1);
        write_bytes(frame.cr + row * frame.cr_pitch_bytes + column, cr, first >> 1, last >> 1);
    }
};

struct Yuyv {
    enum { rows = 1 };

    static __device__ __forceinline__ bool read_group(const Planes<const unsigned char>& frame,
                                                      int x, int y, int width, Codes& codes) {
        unsigned char bytes[8];
        const unsigned char* row = frame.y + y * frame.y_pitch_bytes;
        if (!read_words<unsigned char, 2>(row, x, width, bytes)) return false;
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            codes.y[i] = bytes[2 * i];
            codes.cb[i] = bytes[2 * (i & 2) + 1];
            codes.cr[i] = bytes[2 * (i & 2) + 3];
        }
        return true;
    }
    static __device__ __forceinline__ void read_pixel(const Planes<const unsigned char>& frame,
                                                      int x, int y, unsigned char& luma,
                                                      unsigned char& cb, unsigned char& cr) {
        const unsigned char* pair = frame.y + y * frame.y_pitch_bytes + 2LL * (x & ~1);
        luma = pair[2 * (x & 1)];
        cb = pair[1];
        cr = pair[3];
    }
    static __device__ __forceinline__ void write(const Planes<unsigned char>& frame, int x, int y,
                                                 const unsigned char (&luma)[rows][4],
                                                 const unsigned char (&chroma)[4], int first,
                                                 int last) {
        unsigned char* row = frame.y + y * frame.y_pitch_bytes + 2LL * x;
#pragma unroll
        for (int i = 0; i < 4; i += 2) {
            const unsigned char pair[4] = {luma[0][i], chroma[i], luma[0][i + 1], chroma[i + 1]};
            if (i >= first && i < last) write_bytes(row + 2 * i, pair, 0, 4);
        }
    }
};
