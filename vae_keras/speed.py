"""What makes `VAE.fit` fast on a CPU, apart from the mathematics."""

import ctypes
import functools
import itertools
import os
import platform

import keras
import tensorflow as tf


def fused_steps(model: keras.Model, one_by_one):
    """Returns a train function that runs many steps as one XLA program.

    Keras compiles one train step and calls it `steps_per_execution` times.
    Between two calls all weights and optimizer slots leave XLA and enter
    it again. Here the loop over the steps is inside the program, and they
    stay where they are. The steps themselves are the same.

    Args:
        model: a compiled model with `steps_per_execution` above 1.
        one_by_one: Keras's own train function, used for data that cannot
            be stacked, such as ragged tensors.

    Returns:
        A function from an iterator over batches to the metrics' values.
    """
    num_steps = int(model.steps_per_execution)

    @tf.function(jit_compile=True, reduce_retracing=True, autograph=False)
    def run(batches, count):
        def step(i):
            model.train_step(tf.nest.map_structure(lambda t: t[i], batches))
            return i + 1

        tf.while_loop(lambda i: i < count, step, [tf.constant(0)])
        return model.get_metrics_result()

    # Each model has a program of its own, which TensorFlow would take for
    # one that is traced again and again, and warn.
    run._omit_frequent_tracing_warning = True

    def train_function(iterator):
        # `train_on_batch` passes a generator, which has no specification.
        specs = tf.nest.flatten(getattr(iterator, "element_spec", None))
        if not all(type(spec) is tf.TensorSpec for spec in specs):
            return one_by_one(iterator)
        logs = None
        batches = itertools.islice(iterator, num_steps)
        # A smaller last batch is a group of its own. Stacks are filled up
        # to one length, so that XLA compiles once for each batch size, and
        # `count` says how many of its batches to train on.
        for shapes, group in itertools.groupby(batches, key=_shapes):
            num_values = sum(shape.num_elements() for shape in shapes)
            length = min(num_steps, max(1, _MAX_STACK // max(1, num_values)))
            while stack := list(itertools.islice(group, length)):
                count = tf.constant(len(stack))
                stack += stack[-1:] * (length - len(stack))
                logs = run(
                    tf.nest.map_structure(lambda *t: tf.stack(t), *stack),
                    count,
                )
        if logs is None:
            raise StopIteration
        return logs

    return train_function


def has_convolutions(model: keras.Model) -> bool:
    """Whether a layer of the model, at any depth, is a convolution.

    On a CPU, XLA runs a convolution inside a loop many times slower than
    outside one, so that steps with convolutions must not be fused
    (`benchmarks/fused_steps.py` measures it).
    """
    names = [name for name in dir(keras.layers) if "Conv" in name]
    kinds = tuple(getattr(keras.layers, name) for name in names)
    return any(isinstance(layer, kinds) for layer in model._flatten_layers())


# Values in a stack of batches: 64 MB of float32, so that large images do
# not fill the memory.
_MAX_STACK = 2**24


def _shapes(batch) -> list[tf.TensorShape]:
    return [tensor.shape for tensor in tf.nest.flatten(batch)]


def keep_freed_memory() -> None:
    """Asks the C library to keep freed buffers for the next step.

    Each train step frees some megabytes of gradients and activations and
    then asks for as many again. By default glibc hands such buffers back
    to the kernel and pays for every page anew, in thousands of page faults
    a step. Compiling with XLA sets glibc's threshold back, so this has to
    be asked for again afterwards; asking takes about a microsecond.
    Does nothing elsewhere than on Linux with glibc, or where a `MALLOC_…`
    environment variable says what the user wants.
    """
    libc = _glibc()
    if libc is not None:
        m_trim_threshold, m_mmap_threshold = -1, -3  # from glibc's malloc.h
        libc.mallopt(m_mmap_threshold, 32 * 2**20)  # the most glibc takes
        libc.mallopt(m_trim_threshold, 2**30)


@functools.cache
def _glibc() -> ctypes.CDLL | None:
    """The C library, if it is glibc and not set up by the user."""
    by_user = any(name.startswith("MALLOC_") for name in os.environ)
    if by_user or platform.libc_ver()[0] != "glibc":
        return None
    return ctypes.CDLL(None)
