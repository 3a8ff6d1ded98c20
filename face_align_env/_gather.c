/* The inner loops of face_align_env/patches.py, which has the same in NumPy: images get a border, and windows are copied
   out of them.

   A window is a few rows of some tens of bytes, each in another cache line. NumPy copies them one by one, and waits for
   the memory at each; here the next window is fetched while this one is copied. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <stdint.h>
#include <string.h>

#if defined(__GNUC__) || defined(__clang__)
#define FETCH(address) __builtin_prefetch(address)
#else
#define FETCH(address) ((void)(address))
#endif

#define BLOCK 32 /* bytes; a copy of constant size becomes a few vector instructions */
#define LINE 64  /* bytes of a cache line */

static void copy_row(uint8_t *out, const uint8_t *in, Py_ssize_t bytes) {
    if (bytes < BLOCK) {
        memcpy(out, in, (size_t)bytes);
        return;
    }
    for (Py_ssize_t i = 0; i < bytes - BLOCK; i += BLOCK) {
        memcpy(out + i, in + i, BLOCK);
    }
    memcpy(out + bytes - BLOCK, in + bytes - BLOCK, BLOCK); /* the end, over what is there already */
}

static void copy_windows(uint8_t *out, const uint8_t *images, const int64_t *starts, Py_ssize_t count, Py_ssize_t rows,
                         Py_ssize_t row_bytes, Py_ssize_t stride) {
    for (Py_ssize_t i = 0; i < count; i++) {
        const uint8_t *in = images + starts[i];
        const uint8_t *next = images + starts[i + 1 < count ? i + 1 : i];
        for (Py_ssize_t row = 0; row < rows; row++, in += stride, next += stride, out += row_bytes) {
            for (Py_ssize_t line = 0; line < row_bytes; line += LINE) {
                FETCH(next + line);
            }
            FETCH(next + row_bytes - 1);
            copy_row(out, in, row_bytes);
        }
    }
}

static PyObject *gather(PyObject *module, PyObject *args) {
    Py_buffer images, starts, out;
    Py_ssize_t rows, row_bytes, stride;
    (void)module;
    if (!PyArg_ParseTuple(args, "y*y*nnnw*", &images, &starts, &rows, &row_bytes, &stride, &out)) {
        return NULL;
    }
    const Py_ssize_t count = starts.len / (Py_ssize_t)sizeof(int64_t);
    const int64_t *start = starts.buf;
    const char *error = NULL;
    if (rows < 1 || row_bytes < 1 || row_bytes > images.len || stride < 0 || (stride && rows - 1 > images.len / stride) ||
        starts.len % (Py_ssize_t)sizeof(int64_t) ||
        out.len != count * rows * row_bytes) {
        error = "the windows do not fill the output";
    } else {
        const int64_t last = (int64_t)images.len - (int64_t)(rows - 1) * stride - row_bytes;
        for (Py_ssize_t i = 0; i < count; i++) {
            if (start[i] < 0 || start[i] > last) {
                error = "a window lies outside of the images";
                break;
            }
        }
    }
    if (error == NULL) {
        Py_BEGIN_ALLOW_THREADS
        copy_windows(out.buf, images.buf, start, count, rows, row_bytes, stride);
        Py_END_ALLOW_THREADS
    }
    PyBuffer_Release(&images);
    PyBuffer_Release(&starts);
    PyBuffer_Release(&out);
    if (error != NULL) {
        PyErr_SetString(PyExc_ValueError, error);
        return NULL;
    }
    Py_RETURN_NONE;
}

#define PATTERN 48 /* bytes: 16 pixels */

/* One pixel, again and again. */
static void repeat(uint8_t *out, const uint8_t *pixel, Py_ssize_t channels, Py_ssize_t bytes) {
    uint8_t pattern[PATTERN];
    if (channels != 3) {
        for (Py_ssize_t i = 0; i < bytes; i++) {
            out[i] = pixel[i % channels];
        }
        return;
    }
    for (int i = 0; i < PATTERN; i += 3) {
        pattern[i] = pixel[0];
        pattern[i + 1] = pixel[1];
        pattern[i + 2] = pixel[2];
    }
    for (; bytes >= PATTERN; bytes -= PATTERN, out += PATTERN) {
        memcpy(out, pattern, PATTERN);
    }
    memcpy(out, pattern, (size_t)bytes);
}

/* The border of one image of (height, width) pixels, its own not counted, repeats its outermost pixels. */
static void pad_image(uint8_t *image, Py_ssize_t height, Py_ssize_t width, Py_ssize_t channels, Py_ssize_t border) {
    const Py_ssize_t side = border * channels, right = side + width * channels, stride = right + side;
    uint8_t *row = image + border * stride;
    for (Py_ssize_t y = 0; y < height; y++, row += stride) {
        repeat(row, row + side, channels, side);
        repeat(row + right, row + right - channels, channels, side);
    }
    for (Py_ssize_t y = 0; y < border; y++) {
        memcpy(image + y * stride, image + border * stride, (size_t)stride);
        memcpy(row + y * stride, row - stride, (size_t)stride);
    }
}

static PyObject *pad(PyObject *module, PyObject *args) {
    Py_buffer images;
    Py_ssize_t count, height, width, channels, border;
    (void)module;
    if (!PyArg_ParseTuple(args, "w*nnnnn", &images, &count, &height, &width, &channels, &border)) {
        return NULL;
    }
    const Py_ssize_t bytes = (height + 2 * border) * (width + 2 * border) * channels;
    const int fits = count >= 0 && height > 0 && width > 0 && channels > 0 && border >= 0 && images.len == count * bytes;
    if (fits) {
        Py_BEGIN_ALLOW_THREADS
        for (Py_ssize_t i = 0; i < count; i++) {
            pad_image((uint8_t *)images.buf + i * bytes, height, width, channels, border);
        }
        Py_END_ALLOW_THREADS
    }
    PyBuffer_Release(&images);
    if (!fits) {
        PyErr_SetString(PyExc_ValueError, "the images are not of that size");
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    {"pad", pad, METH_VARARGS,
     "pad(images, count, height, width, channels, border): fill the border, which the height and the width do not count,\n"
     "with the outermost pixels."},
    {"gather", gather, METH_VARARGS,
     "gather(images, starts, rows, row_bytes, stride, out): copy windows, each `rows` rows of `row_bytes` bytes that are\n"
     "`stride` bytes apart, from where `starts` (int64, bytes) says in `images`, one after the other into `out`."},
    {NULL, NULL, 0, NULL},
};

static PyModuleDef_Slot slots[] = {{0, NULL}};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "_gather", "Borders of images, and windows out of them.", 0, methods, slots, NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit__gather(void) { return PyModuleDef_Init(&definition); }
