"""What makes a GPU compute the same bits, and what settings decide a run's bits."""

from __future__ import annotations

import os
import sys
from typing import Any

from kerascnn import UsageError

_XLA_FLAG = "--xla_gpu_deterministic_ops=true"

# JAX's settings that change numbers: types, precision, random draws, how XLA compiles.
_JAX = (
    *("jax_enable_x64", "jax_explicit_x64_dtypes", "jax_numpy_dtype_promotion"),
    *("jax_default_matmul_precision", "jax_allow_f16_reductions"),
    *("jax_default_prng_impl", "jax_threefry_partitionable", "jax_random_seed_offset"),
    *("jax_threefry_gpu_kernel_lowering", "jax_high_dynamic_range_gumbel"),
    *("jax_disable_jit", "jax_disable_most_optimizations", "jax_optimization_level"),
    *("jax_exec_time_optimization_effort", "jax_memory_fitting_effort"),
    *("jax_memory_fitting_level", "jax_compiler_enable_remat_pass"),
    *("jax_use_shardy_partitioner", "jax_use_direct_linearize"),
    *("jax_softmax_custom_jvp", "eager_constant_folding", "jax_enable_pgle"),
    *("jax_debug_nans", "jax_debug_infs", "jax_default_device", "jax_use_magma"),
)
# Variables of the environment that do: threads, instructions, number formats.
_VARIABLES = {
    "jax": ("XLA_FLAGS", "LIBTPU_INIT_ARGS", "NPROC", "PJRT_NPROC"),
    "tensorflow": (
        *(
            "XLA_FLAGS",
            "TF_XLA_FLAGS",
            "TF_ENABLE_ONEDNN_OPTS",
            "TF_CUDNN_USE_AUTOTUNE",
        ),
        *("TF_DETERMINISTIC_OPS", "TF_CUDNN_DETERMINISTIC"),
    ),
    "torch": ("TORCH_ALLOW_TF32_CUBLAS_OVERRIDE", "CUBLAS_WORKSPACE_CONFIG"),
}
_EVERY = (
    *("NVIDIA_TF32_OVERRIDE", "ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"),
    *("ONEDNN_DEFAULT_FPMATH_MODE", "DNNL_DEFAULT_FPMATH_MODE", "MKL_CBWR"),
    *("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_CORETYPE"),
)


def settings(devices: int = 1) -> dict[str, Any]:
    """Return the settings of this process that decide the bits of a run."""
    import keras

    # Only what the backend in use reads, and of the environment only what is set.
    backend = keras.backend.backend()
    found: dict[str, Any] = {
        "number of devices": devices,
        "keras.config.floatx": keras.config.floatx(),
        "keras.config.epsilon": keras.config.epsilon(),
        "keras.config.image_data_format": keras.config.image_data_format(),
    }
    for name in (*_VARIABLES[backend], *_EVERY):
        if value := " ".join(os.environ.get(name, "").split()):
            found[name] = value
    if backend == "jax":
        config = sys.modules["jax"].config
        for name in _JAX:
            if hasattr(config, name):
                found[name] = _plain(getattr(config, name))
            elif value := config.values.get(name):  # older runs say nothing of it
                found[name] = _plain(value)
    elif backend == "tensorflow":
        config = sys.modules["tensorflow"].config
        threads = config.threading
        found |= {
            "threads in an operation": threads.get_intra_op_parallelism_threads(),
            "threads between": threads.get_inter_op_parallelism_threads(),
            "TensorFloat-32": config.experimental.tensor_float_32_execution_enabled(),
            "jit": bool(config.optimizer.get_jit()),
            "run functions eagerly": config.functions_run_eagerly(),
        }
    else:
        torch = sys.modules["torch"]
        found |= {
            "threads": torch.get_num_threads(),
            "matmul precision": torch.get_float32_matmul_precision(),
            "TensorFloat-32 in cuDNN": torch.backends.cudnn.allow_tf32,
            "cuDNN": torch.backends.cudnn.enabled,
            "cuDNN's benchmarks": torch.backends.cudnn.benchmark,
            "oneDNN": torch.backends.mkldnn.is_available(),
            "subnormal numbers are zero": not torch.tensor(1e-42).mul(1.0).item(),
        }
    return found


def _plain(value: Any) -> Any:
    return value if isinstance(value, bool | int | float | str | None) else str(value)


def variables(backend: str) -> dict[str, str]:
    """Return the environment variables that a deterministic run needs."""
    match backend:
        case "jax":
            flags = os.environ.get("XLA_FLAGS", "").split()
            return {"XLA_FLAGS": " ".join(dict.fromkeys([*flags, _XLA_FLAG]))}
        case "torch":
            return {"CUBLAS_WORKSPACE_CONFIG": ":4096:8"}
        case _:
            return {}


def require() -> None:
    """Have the backend compute the same each time, or refuse what it can't."""
    # JAX then takes only kernels that add in a fixed order, and does not choose among
    # them by timing them; TensorFlow and PyTorch likewise, and they raise an error
    # where there is no such kernel.
    import keras

    backend = keras.backend.backend()
    for name, value in variables(backend).items():
        if os.environ.get(name) != value:
            raise UsageError(
                f"a deterministic run needs the environment variable {name}={value} "
                "before Python starts (the command line sets it)."
            )
    if backend == "tensorflow":
        sys.modules["tensorflow"].config.experimental.enable_op_determinism()
    elif backend == "torch":
        sys.modules["torch"].use_deterministic_algorithms(True)
