"""Use selfcluster's estimators in scikit-learn: pipelines, cross-validation, grid search.

    python examples/sklearn_pipeline.py

`sc.KMeans` clusters points, `sc.ClusterLearner` learns an encoder from images. Both are estimators like scikit-learn's own, with `fit`, `predict`,
`transform` and parameters by name. In a pipeline, they are fitted to the training part of each fold only.
"""

import argparse
import tempfile

import numpy as np
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

import selfcluster as sc

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--images", type=int, default=1797, help="use this many of the digits")
parser.add_argument("--epochs", type=int, default=10)
args = parser.parse_args()

digits = load_digits()
pixels, labels = digits.data[: args.images], digits.target[: args.images]
images = np.kron(digits.images[: args.images] * (255 / 16), np.ones((1, 4, 4))).astype(np.uint8)  # (N, 32, 32)
folds = StratifiedKFold(3, shuffle=True, random_state=0)


def print_scores(search: GridSearchCV) -> None:
    """Print the mean accuracy over the folds for each value."""
    for value, score in zip(search.cv_results_["params"], search.cv_results_["mean_test_score"]):
        print(f"  {value}: {score:.1%}")


print("a digit described by its distances to the centers of k-means; how many centers?")
distances = make_pipeline(PCA(20, random_state=0), sc.KMeans(random_state=0), StandardScaler(), LogisticRegression(max_iter=1000))
print_scores(GridSearchCV(distances, {"kmeans__n_clusters": [10, 20, 40]}, cv=folds, refit=False).fit(pixels, labels))

print("a digit described by an encoder that was trained without labels; how strongly is the classifier regularized?")
steps = [
    ("encoder", sc.ClusterLearner(epochs=args.epochs, random_state=0)),  # fitted to images: uint8, (N, H, W) or (N, H, W, 3)
    ("scaler", StandardScaler()),
    ("classifier", LogisticRegression(max_iter=1000)),
]
with tempfile.TemporaryDirectory() as cache:
    learned = Pipeline(steps, memory=cache)  # the encoder is trained once for each fold, not for each value
    print_scores(GridSearchCV(learned, {"classifier__C": [0.01, 0.1, 1.0]}, cv=folds, refit=False).fit(images, labels))
