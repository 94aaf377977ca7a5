"""From a folder of images to a classifier: cluster the images, name the clusters, export them to ONNX, and classify a new image.

    python examples/name_and_export_classifier.py      # images of scikit-learn's digits

or, with photos of your own, whose clusters you name on the page that the first command writes:

    selfcluster explore photos/
    python examples/name_and_export_classifier.py --run runs/photos-explore-1 --names photos-names.csv --new photo.jpg

Where the classifier is used, it needs onnxruntime, numpy and Pillow, but neither selfcluster nor torch: see `classify`.
"""

import argparse
import csv
import json
import tempfile
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image, ImageOps
from sklearn.datasets import load_digits

import selfcluster as sc

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--run", type=Path, help="run folder of selfcluster explore")
parser.add_argument("--names", type=Path, help="names that the page exported")
parser.add_argument("--new", type=Path, help="image to classify")
parser.add_argument("--images", type=int, default=1797, help="use this many of the digits")
args = parser.parse_args()


def write_digits(folder: Path, n_images: int) -> None:
    """Write digits as images of 32 x 32 pixels whose names begin with the digit; all but the last of them go to images/."""
    (folder / "images").mkdir()
    digits = load_digits()
    for i, (scan, digit) in enumerate(zip(digits.images[:n_images], digits.target[:n_images])):
        place = folder if i == n_images - 1 else folder / "images"
        Image.fromarray((scan * (255 / 16)).astype(np.uint8)).resize((32, 32)).save(place / f"{digit}-{i:04}.png")


def write_names(run: sc.Run, file: Path) -> None:
    """Name clusters as a person would on the page: here by the digit that begins most of the file names in a cluster."""
    rows = run.table.select(["path", "cluster"]).to_pylist()
    digits = defaultdict(Counter)
    for row in rows:
        digits[row["cluster"]][row["path"][0]] += 1
    with file.open("w", newline="") as opened:
        writer = csv.writer(opened)
        writer.writerow(["path", "cluster", "name"])
        writer.writerows([row["path"], row["cluster"], f"digit {digits[row['cluster']].most_common(1)[0][0]}"] for row in rows)


def classify(model: Path, file: Path) -> tuple[str, float]:
    """Return the name of the most likely cluster of an image, and its score, a cosine."""
    preprocessing = json.loads((model / "preprocessing.json").read_text())
    side = preprocessing["input"]["shape"][-1]
    image = ImageOps.exif_transpose(Image.open(file)).convert("RGB")
    square = ImageOps.fit(image, (side, side), Image.Resampling.BILINEAR)  # the central square, resized
    pixels = (np.asarray(square) / 255 - preprocessing["mean"]) / preprocessing["deviation"]  # (side, side, 3)
    session = onnxruntime.InferenceSession(model / "model.onnx")
    (scores,) = session.run(["clusters"], {"images": pixels.astype(np.float32).transpose(2, 0, 1)[None]})  # (1, number of clusters)
    best = int(scores[0].argmax())
    return preprocessing["output"]["classes"][best], float(scores[0, best])


if args.run:
    run, names, new = sc.load(args.run), args.names, args.new
else:
    folder = Path(tempfile.mkdtemp())
    write_digits(folder, args.images)
    # The encoder that comes with the install knows photos; digits are clustered better by their patches.
    run = sc.explore(folder / "images", encoder="patches", out=folder / "run")
    names, (new,) = folder / "names.csv", folder.glob("*.png")
    write_names(run, names)

clusters = run.apply(names)  # clusters of the same name become one
for cluster in clusters.summaries:
    print(f"{cluster.name or f'cluster {cluster.cluster}'}: {cluster.size:,} images")

exported = run.export("onnx", layer="clusters", overwrite=True)
name, score = classify(exported.path, new)
print(f"{new.name} is {name!r}, with a cosine of {score:.2f}")
