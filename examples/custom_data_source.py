"""Cluster images from a source that selfcluster does not read, such as a database: pack them into a tar file, and take the results back.

    python examples/custom_data_source.py                      # makes a database of scikit-learn's digits first
    python examples/custom_data_source.py --database my.sqlite # with a table images (id INTEGER, png BLOB)

selfcluster reads folders, tar and parquet files, arrays and lists of paths. Training reads every image many times, in random order and from
several processes, so images from elsewhere (a database, an archive, an object store, a camera's own format) are best packed once. A tar file
suits this well: it is written image by image, read in place, and keeps the id of each image as its name.
"""

import argparse
import io
import sqlite3
import tarfile
import tempfile
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

import selfcluster as sc

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--database", type=Path)
parser.add_argument("--images", type=int, default=1797, help="of a database that is made")
args = parser.parse_args()
folder = Path(tempfile.mkdtemp())


def make_database(file: Path, n_images: int) -> None:
    """Make a table of images as PNG, with ids that are not their positions."""
    with sqlite3.connect(file) as database:
        database.execute("CREATE TABLE images (id INTEGER PRIMARY KEY, png BLOB)")
        for i, scan in enumerate(load_digits().images[:n_images]):
            png = io.BytesIO()
            Image.fromarray((scan * (255 / 16)).astype(np.uint8)).resize((32, 32)).save(png, "PNG")
            database.execute("INSERT INTO images VALUES (?, ?)", (1000 + 7 * i, png.getvalue()))


def pack(file: Path, tar: Path) -> None:
    """Write the images of the table into a tar file, one at a time."""
    with sqlite3.connect(file) as database, tarfile.open(tar, "w") as target:
        for number, png in database.execute("SELECT id, png FROM images"):
            # Bytes go in as they are, so the file name must end as those of the format do. A class would be a member 123.cls beside 123.png.
            member = tarfile.TarInfo(f"{number}.png")
            member.size = len(png)
            target.addfile(member, io.BytesIO(png))


database_file = args.database or folder / "digits.sqlite"
if not args.database:
    make_database(database_file, args.images)
pack(database_file, folder / "images.tar")

# From here on, the tar file is like any other images; sc.train takes it, too.
run = sc.explore(folder / "images.tar", encoder="patches", out=folder / "run")
print(run.table.select(["path", "cluster", "distance"]).slice(0, 3))  # paths are images.tar/ID.png

rows = run.table.select(["path", "cluster"]).to_pylist()
with sqlite3.connect(database_file) as database:
    database.execute("CREATE TABLE IF NOT EXISTS clusters (id INTEGER PRIMARY KEY, cluster INTEGER)")
    found = [(int(PurePosixPath(row["path"]).stem), row["cluster"]) for row in rows]
    database.executemany("INSERT OR REPLACE INTO clusters VALUES (?, ?)", found)
    for cluster, n in database.execute("SELECT cluster, COUNT(*) FROM images JOIN clusters USING (id) GROUP BY cluster"):
        print(f"cluster {cluster}: {n} images")
