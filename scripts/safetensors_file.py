"""Writes safetensors files for the scripts beside it, which need NumPy alone."""
import json
import struct

DTYPES = {"float32": "F32", "float64": "F64", "int64": "I64", "int32": "I32", "uint8": "U8", "bool": "BOOL"}


def write(path, arrays):
    """A file of contiguous NumPy arrays by their names."""
    header, offset = {}, 0
    for name, value in sorted(arrays.items()):
        header[name] = {"dtype": DTYPES[value.dtype.name], "shape": list(value.shape),
                        "data_offsets": [offset, offset + value.nbytes]}
        offset += value.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for _, value in sorted(arrays.items()):
            file.write(value.tobytes())
