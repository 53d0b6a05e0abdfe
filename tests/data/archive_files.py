"""Write the official archives' file formats, from the descriptions on their pages."""

import gzip
import io
import struct
import tarfile


def cifar_binary(images, labels):
    """The binary version: a label, then the red, green and blue planes."""
    planes = images.transpose(0, 3, 1, 2).reshape(len(images), 3072)
    return b"".join(
        bytes([label]) + plane.tobytes()
        for label, plane in zip(labels.tolist(), planes, strict=True)
    )


def cifar_python(images, labels):
    """The Python version, as Python 2 and the NumPy of 2009 pickled it (protocol 2)."""
    planes = images.transpose(0, 3, 1, 2).reshape(len(images), 3072)

    def text(word):
        return b"U" + bytes([len(word)]) + word

    raw = planes.tobytes()
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\nq\x02"
        + b"cnumpy\nndarray\nq\x03"
        + b"K\x00\x85q\x04"
        + text(b"b")
        + b"\x87Rq\x05"
        + b"(K\x01"
        + b"J"
        + struct.pack("<i", len(images))
        + b"M\x00\x0c\x86"
        + b"cnumpy\ndtype\nq\x06"
        + text(b"u1")
        + b"K\x00K\x01\x87R"
        + b"(K\x03"
        + text(b"|")
        + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        + b"\x89"
        + b"T"
        + struct.pack("<i", len(raw))
        + raw
        + b"tb"
    )
    return (
        b"\x80\x02}q\x01("
        + text(b"batch_label")
        + text(b"training batch 1 of 5")
        + text(b"labels")
        + b"]("
        + b"".join(b"K" + bytes([x]) for x in labels)
        + b"e"
        + text(b"data")
        + array
        + text(b"filenames")
        + b"]"
        + text(b"leptodactylus.png")
        + b"a"
        + b"u."
    )


def idx(array):
    """Fashion-MNIST's format: zero, zero, 8 for bytes, the axes and their lengths."""
    header = struct.pack(">4B", 0, 0, 8, array.ndim)
    return header + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def tar(files, mode="w:gz"):
    """A tar archive of {name: content}."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=mode) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return file.getvalue()


def write(folder, files):
    """Write {path below the folder: content}."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    return folder
