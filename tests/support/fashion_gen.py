"""Small HDF5 files in the layout of Fashion-Gen."""

import h5py
import numpy as np

TRAIN, VALIDATION = "fashiongen_256_256_train.h5", "fashiongen_256_256_validation.h5"
CHUNK, SIDE, PICTURES = 6, 32, 4  # pictures a chunk, pixels a side, pictures a product
CATEGORIES = ("JACKETS & COATS", "JEANS", "SHIRTS")


def fixture_columns(products):
    """Everything but the pictures, by key, for `products` of `PICTURES` pictures each."""
    ids = [product for product in products for _ in range(PICTURES)]
    return {
        "productID": np.array(ids, np.int64),
        "category": [CATEGORIES[i % 3].encode() for i in ids],
        "subcategory": [b"" if i == products[0] else b"S%d" % (i % 5) for i in ids],
        "name": ["Café jacket".encode() for _ in ids],
        "description": ["née %d".encode("latin-1") % i for i in ids],
        "concat_description": [b"" if i == products[1] else b"all of %d" % i for i in ids],
        "msrpUSD": np.array(ids, np.float32) + 0.5,
    }


def write_file(path, products, leave_out=(), chunk=CHUNK, **changed):
    """A file of the real one's shape, but for the pictures' size; returns its pictures."""
    columns = fixture_columns(products) | changed
    rows = len(products) * PICTURES
    images = np.random.default_rng(len(products)).integers(0, 256, (rows, SIDE, SIDE, 3), np.uint8)
    chunks = (chunk, SIDE, SIDE, 3) if chunk else None
    with h5py.File(path, "w") as file:
        for key, values in columns.items():
            if key not in leave_out:
                values = np.asarray(values)
                options = {"chunks": (5, 1), "compression": "gzip"}
                file.create_dataset(f"input_{key}", data=values[:, None], **options)
        file.create_dataset("index_2", data=np.arange(rows))
        compression = "gzip" if chunk else None
        if "image" not in leave_out:
            file.create_dataset("input_image", data=images, chunks=chunks, compression=compression)
    return images
