"""The edge detectors against OpenCV and against loops over pixels."""

import json
import os
import subprocess
import sys

import keras
import numpy as np
import pytest

from kerascnn import edges

# Two images, and what OpenCV 5.0.0 (opencv-python-headless) made of them as float32:
# cv2.Sobel(image, cv2.CV_32F, 1, 0, ksize=3), cv2.Scharr(image, cv2.CV_32F, 1, 0) and
# the same with 0, 1 for y; cv2.Laplacian(image, cv2.CV_32F); and for the kernels of
# Prewitt and Roberts cv2.filter2D(image, cv2.CV_32F, kernel), which like the others
# filters each channel. The borders are its default, BORDER_REFLECT_101.
GREY = [
    [217, 163, 130, 69, 78],
    [10, 19, 4, 44, 208],
    [166, 233, 128, 155, 248],
    [186, 161, 139, 143, 239],
]
OPENCV_GREY = {
    "sobel": (
        [
            [0, -186, -138, 304, 0],
            [0, -137, -122, 476, 0],
            [0, -129, -149, 544, 0],
            [0, -170, -192, 440, 0],
        ],
        [
            [0, 0, 0, 0, 0],
            [38, 87, 152, 340, 512],
            [636, 595, 511, 364, 260],
            [0, 0, 0, 0, 0],
        ],
    ),
    "scharr": (
        [
            [0, -906, -790, 704, 0],
            [0, -435, -266, 2244, 0],
            [0, -539, -759, 2112, 0],
            [0, -698, -648, 1720, 0],
        ],
        [
            [0, 0, 0, 0, 0],
            [-90, 541, 448, 1364, 2216],
            [2612, 2353, 2073, 1488, 904],
            [0, 0, 0, 0, 0],
        ],
    ),
    "prewitt": (
        [
            [0, -99, -44, 356, 0],
            [0, -131, -147, 272, 0],
            [0, -91, -71, 424, 0],
            [0, -123, -174, 340, 0],
        ],
        [
            [0, 0, 0, 0, 0],
            [89, 17, 154, 254, 342],
            [460, 453, 376, 265, 229],
            [0, 0, 0, 0, 0],
        ],
    ),
    "roberts": (
        [
            [-198, -153, -111, -65, -34],
            [153, 198, 159, 86, -139],
            [-147, -223, -109, -151, -204],
            [47, 5, 94, -15, -84],
        ],
        [
            [-153, -198, -159, -86, 139],
            [198, 153, 111, 65, 34],
            [-223, -147, -229, -84, 53],
            [5, 47, -33, 16, 105],
        ],
    ),
    "laplacian": (
        [
            [-522, -267, -280, 20, 242],
            [381, 334, 305, 260, -418],
            [-2, -458, 19, -57, -235],
            [-90, 147, 4, 116, -174],
        ],
    ),
}
COLOUR = [
    [[71, 208, 171], [0, 100, 219], [141, 8, 195]],
    [[186, 216, 44], [22, 220, 5], [138, 20, 76]],
    [[123, 108, 103], [7, 1, 31], [2, 171, 134]],
]
OPENCV_COLOUR = {
    "sobel": (
        [
            [[0, 0, 0], [44, -792, 112], [0, 0, 0]],
            [[0, 0, 0], [-147, -529, 119], [0, 0, 0]],
            [[0, 0, 0], [-338, -266, 126], [0, 0, 0]],
        ],
        [
            [[0, 0, 0], [0, 0, 0], [0, 0, 0]],
            [[118, -398, -512], [-73, -135, -505], [-264, 128, -498]],
            [[0, 0, 0], [0, 0, 0], [0, 0, 0]],
        ],
    ),
    "scharr": (
        [
            [[0, 0, 0], [412, -3176, 432], [0, 0, 0]],
            [[0, 0, 0], [-633, -2371, 485], [0, 0, 0]],
            [[0, 0, 0], [-1498, -546, 502], [0, 0, 0]],
        ],
        [
            [[0, 0, 0], [0, 0, 0], [0, 0, 0]],
            [[562, -1594, -1808], [-191, -801, -2267], [-1348, 1036, -1738]],
            [[0, 0, 0], [0, 0, 0], [0, 0, 0]],
        ],
    ),
    "laplacian": (
        [
            [[88, -200, -158], [256, 256, -500], [-288, 208, -190]],
            [[-506, -108, 108], [243, -543, 350], [-365, 539, 35]],
            [[-106, 2, -262], [141, 715, 123], [282, -642, -322]],
        ],
    ),
    "prewitt": (
        [
            [[0, 0, 0], [-26, -592, 88], [0, 0, 0]],
            [[0, 0, 0], [-99, -333, 87], [0, 0, 0]],
            [[0, 0, 0], [-217, -329, 95], [0, 0, 0]],
        ],
        [
            [[0, 0, 0], [0, 0, 0], [0, 0, 0]],
            [[66, -298, -444], [-80, -36, -317], [-125, -35, -437]],
            [[0, 0, 0], [0, 0, 0], [0, 0, 0]],
        ],
    ),
    "roberts": (
        [
            [[-49, 12, -166], [186, 116, -175], [-119, 212, -190]],
            [[-186, -116, 175], [49, -12, 166], [-138, 80, 143]],
            [[-101, 112, -98], [179, 215, 13], [20, 49, -129]],
        ],
        [
            [[186, 116, -175], [-49, 12, -166], [138, -80, -143]],
            [[49, -12, 166], [-186, -116, 175], [119, -212, 190]],
            [[179, 215, 13], [-101, 112, -98], [131, 19, 45]],
        ],
    ),
}
# cv2.cvtColor(colour, cv2.COLOR_RGB2GRAY), rounded to three decimals.
OPENCV_TO_GREY = [
    [162.819, 83.666, 69.085],
    [187.422, 136.288, 61.666],
    [111.915, 6.214, 116.251],
]

# Whole numbers below 2**24 are exact in float32; only the square root rounds.
RELATIVE = 1e-6


def batch(image):
    image = np.array(image, "float32")
    return (image if image.ndim == 3 else image[..., None])[None]


def expected(parts):
    """The length of two derivatives, or the one second derivative."""
    parts = [np.array(part, float) for part in parts]
    return parts[0] if len(parts) == 1 else np.sqrt(parts[0] ** 2 + parts[1] ** 2)


def numpy_of(tensor):
    return keras.ops.convert_to_numpy(tensor)


@pytest.mark.parametrize("name", OPENCV_GREY)
def test_grey_images_give_opencv_s_values(name):
    found = numpy_of(getattr(edges, name)(batch(GREY)))
    assert found.shape == (1, 4, 5, 1)
    np.testing.assert_allclose(
        found[0, :, :, 0], expected(OPENCV_GREY[name]), rtol=RELATIVE
    )


@pytest.mark.parametrize("name", OPENCV_COLOUR)
def test_colour_images_give_opencv_s_values_channel_by_channel(name):
    found = numpy_of(getattr(edges, name)(batch(COLOUR)))
    np.testing.assert_allclose(found[0], expected(OPENCV_COLOUR[name]), rtol=RELATIVE)


def test_grey_gives_opencv_s_brightness():
    found = numpy_of(edges.grey()(batch(COLOUR)))
    assert found.shape == (1, 3, 3, 1)
    # OpenCV's values are rounded to three decimals above.
    np.testing.assert_allclose(found[0, :, :, 0], OPENCV_TO_GREY, atol=6e-4)


@pytest.mark.parametrize(
    ("name", "kernels"),
    [
        ("sobel", (edges.SOBEL_X, edges.SOBEL_Y)),
        ("scharr", (edges.SCHARR_X, edges.SCHARR_Y)),
        ("prewitt", (edges.PREWITT_X, edges.PREWITT_Y)),
        ("roberts", (edges.ROBERTS_1, edges.ROBERTS_2)),
        ("laplacian", (edges.LAPLACIAN,)),
    ],
)
def test_detectors_are_what_loops_over_the_pixels_compute(name, kernels):
    images = np.random.default_rng(1).uniform(size=(2, 7, 6, 3)).astype("float32")
    by_hand = [by_loops(images, kernel) for kernel in kernels]
    wanted = by_hand[0] if len(by_hand) == 1 else np.hypot(*by_hand)
    found = numpy_of(getattr(edges, name)(images))
    # float32 sums of up to nine products of at most 10 x 1: a few units of 1e-6.
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)


def by_loops(images, kernel):
    """Cross-correlation in float64; outside the image, mirror about the last pixel."""

    def mirrored(place, length):
        return abs(place) if place < length else 2 * (length - 1) - place

    batch_size, height, width, channels = images.shape
    rows, columns = len(kernel), len(kernel[0])
    out = np.zeros(images.shape)
    for n, y, x, c in np.ndindex(batch_size, height, width, channels):
        for i, j in np.ndindex(rows, columns):
            source_y = mirrored(y + i - rows // 2, height)
            source_x = mirrored(x + j - columns // 2, width)
            out[n, y, x, c] += kernel[i][j] * float(images[n, source_y, source_x, c])
    return out


def test_sobel_is_separable_as_on_the_slide():
    np.testing.assert_array_equal(edges.SOBEL_X, np.outer([1, 2, 1], [-1, 0, 1]))
    np.testing.assert_array_equal(edges.SOBEL_Y, np.outer([-1, 0, 1], [1, 2, 1]))


def test_a_constant_image_has_no_edges_at_its_border_either():
    flat = np.full((1, 5, 5, 2), 200, "float32")
    for detect in (
        edges.sobel,
        edges.scharr,
        edges.prewitt,
        edges.roberts,
        edges.laplacian,
    ):
        np.testing.assert_array_equal(numpy_of(detect(flat)), np.zeros((1, 5, 5, 2)))


@pytest.mark.slow
def test_a_model_of_detectors_is_plain_keras_with_nothing_to_train(tmp_path):
    image = keras.Input((8, 9, 3))
    grey = edges.grey()(image)
    model = keras.Model(image, [edges.sobel(grey), edges.laplacian(grey)])
    model.save(tmp_path / "edges.keras")
    images = np.random.default_rng(2).uniform(size=(2, 8, 9, 3)).astype("float32")
    np.save(tmp_path / "images.npy", images)
    program = (
        "import sys, json, numpy as np, keras\n"
        "model = keras.models.load_model(sys.argv[1] + '/edges.keras')\n"
        "outputs = model.predict(np.load(sys.argv[1] + '/images.npy'), verbose=0)\n"
        "assert 'kerascnn' not in sys.modules\n"
        "print(json.dumps([output.tolist() for output in outputs]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)],
        env=os.environ | {"KERAS_BACKEND": keras.backend.backend()},
        capture_output=True,
        text=True,
        check=True,
    )
    loaded = json.loads(done.stdout.splitlines()[-1])
    assert model.trainable_weights == []
    for before, after in zip(model(images), loaded, strict=True):
        # The same operations on the same values; compiled they may be summed in
        # another order.
        np.testing.assert_allclose(numpy_of(before), after, rtol=1e-5, atol=1e-5)
