"""Load a saved model without trusting the file.

A `.keras` file is a zip of two JSON files and one HDF5 file. Keras's `safe_mode` stops
pickled code, and has had holes: classes that run or fetch something when they are
built, weights that are links to other files, a few bytes that unfold to terabytes. So
nothing is left to it here: the file is looked through before Keras opens it, and only
harmless parts are let through.

The rule: a part is harmless where Keras (or `kerascnn.transforms`) defines it, it
computes numbers from numbers, and its description holds no function, no file's name,
no address and no module. So Keras's layers, activations, initialisers, regularisers,
constraints and operations are let through, but for those that run code (`Lambda`, the
wrappers of other frameworks' modules, operations such as `Map` that take a function),
that open files or take text (lookups, hashing), and that make as many results as a
number in the file says (`Split`). How a model was compiled is not looked at and not
built: neither losses, metrics and optimisers, nor what of them is the user's own.
The fast layers of `accelerate` are read as Keras's own, whose variables they have.
"""

from __future__ import annotations

import copy
import json
import math
import zipfile
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from kerascnn import UsageError
from kerascnn.process.backend import say_missed_backend, spare_tensorflow
from kerascnn.without_weights import without_weights

if TYPE_CHECKING:
    import keras

MEMBERS = {"metadata.json", "config.json", "model.weights.h5"}
# A description of a network; VGG16's has 30 kB.
LARGEST_JSON = 16 << 20
LARGEST_FILE = 8 << 30

# The classes that a model may be made of, by the module that its file names: see the
# rule above. tests/test_saved.py names those of Keras's that it leaves out, and why.
_NAMES = {
    "keras": """
        DTypePolicy Sequential
    """,
    "keras.layers": """
        Activation ActivityRegularization AdaptiveAveragePooling1D
        AdaptiveAveragePooling2D AdaptiveAveragePooling3D AdaptiveMaxPooling1D
        AdaptiveMaxPooling2D AdaptiveMaxPooling3D Add AdditiveAttention
        AlphaDropout Attention AugMix AutoContrast Average AveragePooling1D
        AveragePooling2D AveragePooling3D BatchNormalization Bidirectional
        CategoryEncoding CenterCrop Concatenate
        ContrastLimitedAdaptiveHistogramEqualization Conv1D Conv1DTranspose Conv2D
        Conv2DTranspose Conv3D Conv3DTranspose ConvLSTM1D ConvLSTM2D ConvLSTM3D
        Cropping1D Cropping2D Cropping3D CutMix Dense DepthwiseConv1D
        DepthwiseConv2D Discretization Dot Dropout ELU EinsumDense Embedding
        Equalization Flatten GRU GRUCell GaussianDropout GaussianNoise
        GlobalAveragePooling1D GlobalAveragePooling2D GlobalAveragePooling3D
        GlobalMaxPooling1D GlobalMaxPooling2D GlobalMaxPooling3D
        GroupNormalization GroupQueryAttention Identity InputLayer LSTM LSTMCell
        LayerNormalization LeakyReLU Masking MaxNumBoundingBoxes MaxPooling1D
        MaxPooling2D MaxPooling3D Maximum MelSpectrogram Minimum MixUp
        MultiHeadAttention Multiply Normalization PReLU Permute Pipeline
        RMSNormalization RNN RandAugment RandomBrightness RandomColorDegeneration
        RandomColorJitter RandomContrast RandomCrop RandomElasticTransform
        RandomErasing RandomFlip RandomGaussianBlur RandomGrayscale RandomHue
        RandomInvert RandomPerspective RandomPosterization RandomRotation
        RandomSaturation RandomSharpness RandomShear RandomTranslation RandomZoom
        ReLU RepeatVector Rescaling Reshape Resizing ReversibleEmbedding
        STFTSpectrogram SeparableConv1D SeparableConv2D SimpleRNN SimpleRNNCell
        Softmax Solarization SpatialDropout1D SpatialDropout2D SpatialDropout3D
        SpectralNormalization StackedRNNCells Subtract TimeDistributed
        UnitNormalization UpSampling1D UpSampling2D UpSampling3D ZeroPadding1D
        ZeroPadding2D ZeroPadding3D
    """,
    "keras.initializers": """
        Constant GlorotNormal GlorotUniform HeNormal HeUniform Identity
        LecunNormal LecunUniform Ones Orthogonal RandomNormal RandomUniform STFT
        TruncatedNormal VarianceScaling Zeros
    """,
    "keras.regularizers": """
        L1 L1L2 L2 OrthogonalRegularizer
    """,
    "keras.constraints": """
        MaxNorm MinMaxNorm NonNeg UnitNorm
    """,
    "keras.src.models.functional": """
        Functional
    """,
    "keras.src.models.sequential": """
        Sequential
    """,
    "keras.src.activations.activations": """
        Mish ReLU
    """,
    "keras.src.applications.convnext": """
        LayerScale StochasticDepth
    """,
    "keras.src.applications.inception_resnet_v2": """
        CustomScaleLayer
    """,
    "keras.src.ops.core": """
        Cast ConvertToTensor SaturateCast Scatter ScatterUpdate Slice SliceUpdate
        StopGradient
    """,
    "keras.src.ops.einops": """
        Rearrange
    """,
    "keras.src.ops.image": """
        AffineTransform CropImages ElasticTransform ExtractPatches GaussianBlur
        HSVToRGB MapCoordinates PadImages PerspectiveTransform RGBToGrayscale
        RGBToHSV Resize SSIM ScaleAndTranslate SobelEdges
    """,
    "keras.src.ops.linalg": """
        Cholesky CholeskyInverse Det Eig Eigh Inv Lstsq LuFactor MatrixRank Norm
        Pinv Qr SVD Solve SolveTriangular
    """,
    "keras.src.ops.math": """
        CDist Erf Erfc Erfinv ExtractSequences FFT FFT2 IFFT2 IRFFT ISTFT InTopK
        Logdet Logsumexp RFFT Rsqrt STFT SegmentMax SegmentMin SegmentProd
        SegmentSum TopK ViewAsComplex ViewAsReal
    """,
    "keras.src.ops.nn": """
        AdaptiveAveragePool AdaptiveMaxPool AveragePool BatchNorm
        BinaryCrossentropy CTCDecode CTCLoss CategoricalCrossentropy Celu Conv
        ConvTranspose DepthToSpace DepthwiseConv DotProductAttention Elu Fold Gelu
        Glu HardShrink HardSigmoid HardSilu HardTanh LayerNorm LeakyRelu
        LogSigmoid LogSoftmax MaxPool Moments MultiHot Normalize OneHot PSNR Polar
        RMSNorm Relu Relu6 Selu SeparableConv Sigmoid Silu SoftShrink Softmax
        Softplus Softsign SpaceToDepth SparseCategoricalCrossentropy SparsePlus
        SparseSigmoid Sparsemax Squareplus TanhShrink Threshold Unfold
    """,
    "keras.src.ops.numpy": """
        Abs Absolute Add All AllClose Amax Amin Angle Any Append Arange Arccos
        Arccosh Arcsin Arcsinh Arctan Arctan2 Arctanh Argmax Argmin Argpartition
        Argsort Array Average Bincount BitwiseAnd BitwiseInvert BitwiseLeftShift
        BitwiseNot BitwiseOr BitwiseRightShift BitwiseXor BroadcastTo Cbrt Ceil
        Clip Concatenate Conj Conjugate Copy Corrcoef Correlate Cos Cosh
        CountNonzero Cross Cumprod Cumsum Deg2rad Diag Diagflat Diagonal Diff
        Digitize Divide DivideNoNan Dot Dstack Einsum Equal Exp Exp2 ExpandDims
        Expm1 Fabs Flip Fliplr Flipud Floor FloorDivide Fmax Fmin Fmod Full
        FullLike Gcd Geomspace GetItem Greater GreaterEqual Heaviside Histogram
        Hstack Hypot I0 Imag Inner IsIn Isclose Isfinite Isinf Isnan Isneginf
        Isposinf Isreal Kron Lcm Ldexp LeftShift Less LessEqual Linspace Log Log10
        Log1p Log2 Logaddexp Logaddexp2 LogicalAnd LogicalNot LogicalOr LogicalXor
        Logspace Matmul Max Maximum Mean Median Meshgrid Min Minimum Mod Moveaxis
        Multiply NanToNum Nanargmax Nanargmin Nancumprod Nancumsum Nanmax Nanmean
        Nanmedian Nanmin Nanpercentile Nanprod Nanquantile Nanstd Nansum Nanvar
        Ndim Negative Nextafter Nonzero NotEqual OnesLike Outer Pad Percentile
        Power Prod Ptp Quantile Rad2deg Ravel Real Reciprocal Repeat Reshape
        RightShift Roll Rot90 Round SearchSorted Select Sign Signbit Sin Sinc Sinh
        Size Slogdet Sort Sqrt Square Squeeze Stack Std Subtract Sum Swapaxes Take
        TakeAlongAxis Tan Tanh Tensordot Tile Trace Transpose Trapezoid Tril Triu
        TrueDivide Trunc Unique UnravelIndex Vander Var Vdot View Vstack Where
        ZerosLike
    """,
    "kerascnn.transforms": """
        RandomAlternatingFlip RandomCrop RandomErasing RandomRotation
    """,
}
CLASSES: dict[str | None, set[str]] = {
    # What Keras writes for tensors, arrays, and the parts of an index.
    None: {"__keras_tensor__", "__tensor__", "__numpy__", "__slice__", "__ellipsis__"},
    **{module: set(names.split()) for module, names in _NAMES.items()},
}
# The types that an array in a description may have; one of text can claim any size.
DTYPES = {
    *("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
    *("float16", "bfloat16", "float32", "float64", "complex64", "complex128"),
}


def load_model(path: Path | str) -> keras.Model:
    """Load a `.keras` file whose parts are all harmless, as a model or a run saves it.

    Args:
        path: The file, as a run leaves it.

    Returns:
        The model, not compiled, also where the saved one was.

    Raises:
        UsageError: It is no such file, or it holds what runs code, opens a file, or
            takes more memory than the file.

    Example:
        >>> model = load_model("runs/fashion_mlp/20261124-101500/model.keras")
    """
    say_missed_backend()
    path = Path(path)
    try:
        with zipfile.ZipFile(path) as archive:
            config, parameters = _check(archive)
    except _RefusedError as reason:
        raise _refused(path, reason) from reason
    except FileNotFoundError as error:
        raise UsageError(f"there is no file {path}.") from error
    except (*_BROKEN, zipfile.BadZipFile) as error:
        raise UsageError(
            f"{path} is not a whole .keras file ({_line(error)}); other formats, such "
            "as .h5, can hold code and are not read."
        ) from error
    try:
        model = _model(config)
        model.load_weights(path)
    except Exception as error:  # whatever else is wrong with it
        raise UsageError(f"Keras can't load {path}: {_line(error)}") from error
    if sum(math.prod(weight.shape) for weight in model.weights) > parameters:
        raise _refused(path, "its model has more weights than the file")
    return model


class _RefusedError(Exception):
    pass


def _refused(path: Path, reason: object) -> UsageError:
    return UsageError(
        f"{path} is refused: {reason}. Open it with keras.saving.load_model only if "
        "you trust who made it."
    )


def _line(error: Exception) -> str:
    return " ".join(str(error).split())


# What reading a file that was cut, or written by nobody, may raise.
_BROKEN = (
    *(OSError, ValueError, KeyError, TypeError, AttributeError, IndexError),
    *(RuntimeError, EOFError),  # h5py's own; deep JSON's RecursionError is one too
)


def _check(archive: zipfile.ZipFile) -> tuple[dict[str, Any], int]:
    """Look through the file; return its model's description and how many numbers."""
    names = [member.filename for member in archive.infolist()]
    if strange := [name for name in names if name not in MEMBERS]:
        raise _RefusedError(f"it holds {strange[0]!r}, and a model has no use for it")
    if sorted(names) != sorted(MEMBERS):
        raise _RefusedError(
            f"it holds {', '.join(names)} instead of {', '.join(sorted(MEMBERS))}"
        )
    for member in archive.infolist():
        if member.flag_bits & 1:
            raise _RefusedError(f"{member.filename} is encrypted")
        # Keras stores them as they are; what unfolds may be a bomb.
        if member.compress_type != zipfile.ZIP_STORED or (
            member.file_size != member.compress_size
        ):
            raise _RefusedError(f"{member.filename} is compressed")
        limit = LARGEST_JSON if member.filename.endswith("json") else LARGEST_FILE
        if member.file_size > limit:
            raise _RefusedError(f"{member.filename} has {member.file_size} bytes")
    config = _stock(json.loads(archive.read("config.json")))
    _check_classes(config)
    with archive.open("model.weights.h5") as file:
        stored = _check_weights(file, archive.getinfo("model.weights.h5").file_size)
    try:
        declared = _parameters(config)
    except Exception as error:  # Keras's own code, on a description of any kind
        raise _RefusedError(
            f"Keras can't make what it describes ({_line(error)})"
        ) from error
    if declared > stored:
        raise _RefusedError(
            f"its layers have {declared:,} weights, and the file has {stored:,} numbers"
        )
    return config, stored


def _stock(value: Any) -> Any:
    """Return a description without how its models were compiled, inner ones too."""
    # Its fast layers become the layers of Keras that they stand for, because their
    # configurations are the same, and the model then needs neither JAX nor this
    # package.
    if isinstance(value, list):
        return [_stock(item) for item in value]
    if not isinstance(value, dict):
        return value
    stock = {k: _stock(v) for k, v in value.items() if k != "compile_config"}
    if value.get("module") == "kerascnn.acceleration.layers":
        stock |= {"module": "keras.layers", "registered_name": None}
    return stock


def _check_classes(value: Any) -> None:
    if isinstance(value, list):
        for item in value:
            _check_classes(item)
    if not isinstance(value, dict):
        return
    if "class_name" in value:
        module, name = value.get("module"), value["class_name"]
        if not isinstance(name, str) or name not in CLASSES.get(module, set()):
            raise _RefusedError(
                f"it is made of {module}.{name}, which is not known here"
            )
        # What a name was registered as would win over the module.
        own = f"kerascnn>{name}" if module == "kerascnn.transforms" else name
        if value.get("registered_name") not in (None, own):
            raise _RefusedError(f"it calls {name} {value['registered_name']!r}")
        if name in ("__tensor__", "__numpy__") and (
            value["config"]["dtype"] not in DTYPES
        ):
            raise _RefusedError(f"it has an array of {value['config']['dtype']}")
    for node in value.get("inbound_nodes", []):
        # Given constants alone, a layer computes at once, of any size.
        if not _has_tensor(node):
            raise _RefusedError(f"its layer {value.get('name')!r} has no input")
    for item in value.values():
        _check_classes(item)


def _has_tensor(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return any(map(_has_tensor, value))
    if isinstance(value, dict):
        return value.get("class_name") == "__keras_tensor__" or any(
            map(_has_tensor, value.values())
        )
    return False


def _check_weights(file: IO[bytes], size: int) -> int:
    """Look through HDF5 without reading any weights; return how many there are."""
    import h5py
    from h5py import h5o  # type: ignore[attr-defined] # compiled, without types

    numbers = stored = 0
    visited = set()

    def check(group: Any) -> None:
        nonlocal numbers, stored
        for name in group:
            link = group.get(name, getlink=True)
            if not isinstance(link, h5py.HardLink):
                raise _RefusedError(f"its weights {name!r} are a link to elsewhere")
            item = group[name]
            # One dataset under many names would count many times, and a group inside
            # itself would never end.
            address = h5o.get_info(item.id).addr
            if address in visited:
                raise _RefusedError(f"its weights {name!r} have another name too")
            visited.add(address)
            if isinstance(item, h5py.Group):
                check(item)
                continue
            if not isinstance(item, h5py.Dataset) or item.is_virtual or item.external:
                raise _RefusedError(f"its weights {name!r} lie in another file")
            if item.dtype.kind not in "biufV" or item.dtype.hasobject:
                raise _RefusedError(f"its weights {name!r} are {item.dtype}")
            numbers += math.prod(item.shape)
            stored += item.nbytes
            # What is not stored as it is may be a bomb.
            if stored > size or item.id.get_storage_size() != item.nbytes:
                raise _RefusedError(
                    f"its weights {name!r} claim to be {item.nbytes} bytes"
                )

    with h5py.File(file, "r") as weights:
        visited.add(h5o.get_info(weights.id).addr)
        check(weights)
    return numbers


def _parameters(config: dict[str, Any]) -> int:
    """Count the weights of the network that a file describes, without making any."""
    model = without_weights(lambda: _model(config))
    return sum(math.prod(weight.shape) for weight in model.weights)


def _model(config: dict[str, Any]) -> Any:
    """Build the model of a description that was looked through."""
    spare_tensorflow()
    import keras

    import kerascnn.transforms  # noqa: F401 - registers its layers

    # A copy, since Keras takes the description apart.
    return keras.saving.deserialize_keras_object(copy.deepcopy(config), safe_mode=True)
