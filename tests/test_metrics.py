import numpy as np
import pytest

from colearn_jax.evaluation.metrics import HEADLINE, ensemble, scores
from colearn_jax.types import KINDS, InputError, Task

ONE = Task("regression", ("lfmc",))
TWO = Task("regression", ("height", "biomass"))
CROP = Task("binary", ("other", "crop"))
ABC = Task("multiclass", ("a", "b", "c"))
TREES = Task("multilabel", ("oak", "pine"))


def onehot(classes, n):
  return np.eye(n, dtype=np.float32)[classes] * 0.8 + 0.1


def test_regression_by_hand():
  # Prediction 3 3 8 8; errors 1 -1 2 0; deviations from the means -3 -1 1 3 and -2.5 -2.5 2.5 2.5.
  target = np.array([[2.0], [4.0], [6.0], [8.0]], np.float32)
  got = scores(ONE, target + np.array([[1], [-1], [2], [0]], np.float32), target)
  want = {
    "r2": 1 - 6 / 20,
    "rmse": 1.5**0.5,
    "rrmse": 1.5**0.5 / 5,
    "mae": 1.0,
    "median_ae": 1.0,
    "mape": (1 / 2 + 1 / 4 + 2 / 6) / 4,
    "bias": 0.5,
    "pearson_r": 2.5 * (3 + 1 + 1 + 3) / (20 * 25) ** 0.5,
  }
  assert got == pytest.approx(want)
  assert all(type(v) is float for v in got.values())


def test_regression_of_two_targets_is_their_mean():
  target = np.array([[0.0, 1.0], [2.0, 3.0]])
  got = scores(TWO, target + np.array([1.0, -3.0]), target)
  assert (got["mae"], got["bias"]) == (2.0, -1.0)
  assert (got["per_output"]["height"]["rmse"], got["per_output"]["biomass"]["rmse"]) == (1.0, 3.0)
  assert got["r2"] == pytest.approx((0 + (1 - 9)) / 2)


@pytest.mark.parametrize(
  ("prediction", "target"),
  [([[5.0]], [[4.0]]), ([[5.0], [6.0]], [[4.0], [4.0]])],
  ids=["one sample", "constant target"],
)
def test_regression_undefined_is_nan(prediction, target):
  got = scores(ONE, np.array(prediction), np.array(target))
  assert np.isnan(got["r2"]) and np.isnan(got["pearson_r"]) and got["mae"] > 0


def test_regression_constant_prediction_has_r2_and_no_correlation():
  got = scores(ONE, np.full((3, 1), 0.1, np.float32), np.array([[1.0], [2.0], [3.0]]))
  assert got["r2"] < 0 and np.isnan(got["pearson_r"])
  assert np.isnan(scores(ONE, np.ones((2, 1)), np.array([[-1.0], [1.0]]))["rrmse"])
  assert scores(ONE, np.ones((2, 1)), np.array([[-1.0], [-3.0]]))["rrmse"] > 0


def test_the_unit_of_a_target_has_no_influence_on_its_correlation():
  target = np.array([[1.0], [2.0], [4.0]])
  prediction = np.array([[1.5], [1.0], [5.0]])
  small = scores(ONE, prediction / 1000, target / 1000)
  assert small["pearson_r"] == pytest.approx(scores(ONE, prediction, target)["pearson_r"])
  assert small["pearson_r"] == pytest.approx(np.corrcoef(prediction[:, 0], target[:, 0])[0, 1])


def test_mape_is_undefined_where_the_target_is_zero_B22():
  target = np.array([[0.0], [2.0], [4.0]])
  got = scores(ONE, target + 1, target)
  assert np.isnan(got["mape"]) and got["mae"] == 1
  both = scores(TWO, np.ones((2, 2)), np.array([[0.0, 1.0], [2.0, 4.0]]))
  assert np.isnan(both["mape"]) and both["per_output"]["biomass"]["mape"] == (0 + 3 / 4) / 2


def test_classification_by_hand():
  target = np.array([0, 0, 0, 1, 1, 2])
  got = scores(ABC, onehot([0, 0, 1, 1, 0, 1], 3), target)
  assert got["confusion_matrix"] == [[2, 1, 0], [1, 1, 0], [0, 1, 0]]  # rows are the truth
  assert got["per_class"]["a"] == pytest.approx(
    {"precision": 2 / 3, "recall": 2 / 3, "f1": 2 / 3, "support": 3}
  )
  assert got["per_class"]["b"] == pytest.approx(
    {"precision": 1 / 3, "recall": 1 / 2, "f1": 2 / 5, "support": 2}
  )
  assert got["per_class"]["c"] == {"precision": 0, "recall": 0, "f1": 0, "support": 1}
  assert got["accuracy"] == pytest.approx(1 / 2)
  assert got["f1_macro"] == pytest.approx((2 / 3 + 2 / 5) / 3)
  assert got["f1_weighted"] == pytest.approx((3 * 2 / 3 + 2 * 2 / 5) / 6)
  assert got["precision_macro"] == pytest.approx(1 / 3)
  assert got["recall_weighted"] == pytest.approx(1 / 2)
  assert got["average_accuracy"] == pytest.approx((2 / 3 + 1 / 2) / 3)
  chance = (3 * 3 + 2 * 3) / 36
  assert got["kappa"] == pytest.approx((1 / 2 - chance) / (1 - chance))


def test_a_class_that_does_not_occur_is_left_out_of_the_means():
  got = scores(ABC, onehot([0, 0, 1], 3), np.array([0, 0, 1]))
  assert got["f1_macro"] == got["average_accuracy"] == 1.0
  assert np.isnan(got["per_class"]["c"]["f1"]) and got["per_class"]["c"]["support"] == 0
  assert np.shape(got["confusion_matrix"]) == (3, 3)
  # Predicted but never true: it counts in the macro F1, and has no accuracy of its own.
  got = scores(ABC, onehot([0, 2], 3), np.array([0, 0]))
  assert got["average_accuracy"] == 0.5 and got["f1_macro"] == pytest.approx((2 / 3) / 2)
  assert got["per_class"]["c"] == {"precision": 0, "recall": 0, "f1": 0, "support": 0}


def test_binary_takes_two_columns():
  got = scores(CROP, np.array([[0.4, 0.6], [0.7, 0.3], [0.2, 0.8]]), np.array([1, 1, 0]))
  assert got["confusion_matrix"] == [[0, 1], [1, 1]]
  assert got["per_class"]["crop"]["support"] == 2
  assert got["kappa"] == pytest.approx((1 / 3 - 5 / 9) / (1 - 5 / 9))


@pytest.mark.parametrize("n", [1, 3])
def test_one_class_alone(n):
  got = scores(CROP, onehot([1] * n, 2), np.ones(n, int))
  assert got["accuracy"] == got["f1_macro"] == 1 and np.isnan(got["kappa"])
  assert scores(Task("multiclass", ("a",)), np.ones((n, 1)), np.zeros(n, int))["confusion_matrix"] == [[n]]


def test_nearly_as_many_classes_as_samples_is_quiet():
  task = Task("multiclass", tuple(map(str, range(30))))
  assert scores(task, onehot(np.arange(30), 30), np.arange(30))["accuracy"] == 1


def test_multilabel_by_hand():
  target = np.array([[1, 0], [1, 1], [0, 0], [0, 1]])
  probability = np.array([[0.5, 0.1], [0.2, 0.9], [0.7, 0.3], [0.1, 0.2]], np.float32)  # 0.5 is yes
  got = scores(TREES, probability, target)
  assert got["per_class"]["oak"] == pytest.approx(
    {"precision": 1 / 2, "recall": 1 / 2, "f1": 1 / 2, "support": 2, "average_precision": (1 / 2 + 2 / 3) / 2}
  )
  # Pine falls as 0.9 yes, 0.3 no, 0.2 yes.
  assert got["per_class"]["pine"]["average_precision"] == pytest.approx((1 + 2 / 3) / 2)
  assert got["f1_micro"] == pytest.approx(2 * 2 / (2 * 2 + 1 + 2))
  assert got["f1_macro"] == pytest.approx((1 / 2 + 2 / 3) / 2)
  assert got["map"] == pytest.approx((7 / 12 + 5 / 6) / 2)


def test_multilabel_of_one_label_scores_that_label():
  got = scores(Task("multilabel", ("oak",)), np.array([[0.9], [0.8], [0.1]]), np.array([[1], [0], [0]]))
  assert got["precision_micro"] == got["precision_macro"] == got["per_class"]["oak"]["precision"] == 0.5


def test_a_label_that_is_only_predicted_or_only_there_has_scores():
  """Oak is predicted and never there, pine is there and never predicted: no precision is unknown."""
  got = scores(TREES, np.array([[0.9, 0.1], [0.1, 0.2]]), np.array([[0, 1], [0, 0]]))["per_class"]
  assert [got["oak"][name] for name in ("precision", "recall", "f1")] == [0, 0, 0]
  assert [got["pine"][name] for name in ("precision", "recall", "f1")] == [0, 0, 0]
  got = scores(TREES, np.array([[0.9, 0.1]]), np.array([[1, 0]]))["per_class"]
  assert got["oak"]["f1"] == 1 and np.isnan(got["pine"]["f1"])


def test_multilabel_without_any_label():
  got = scores(TREES, np.full((2, 2), 0.1), np.zeros((2, 2), int))
  assert got["f1_micro"] == got["f1_weighted"] == 0 and np.isnan(got["map"])
  assert scores(TREES, np.array([[0.9, 0.1]]), np.array([[1, 0]]))["map"] == 1


@pytest.mark.parametrize(
  ("task", "prediction", "target", "message"),
  [
    (ONE, np.zeros((0, 1)), np.zeros((0, 1)), "no samples"),
    (ONE, np.zeros((3, 1)), np.zeros(3), r"prediction \(3, 1\) against target \(3,\)"),
    (ABC, np.zeros((3, 2)), np.zeros(3, int), r"3 outputs .* \(3, 2\)"),
    (ONE, np.array([[1], [np.nan], [np.inf]]), np.ones((3, 1)), "in 2 of 3 rows, first in row 1"),
    (ONE, np.ones((2, 1)), np.array([[np.nan], [1]]), "target is not finite in 1 of 2 rows"),
    (ABC, np.zeros((2, 3)), np.array([0, 3]), "value 3, allowed: 0 to 2"),
    (TREES, np.zeros((1, 2)), np.array([[0, 2]]), "value 2, allowed: 0 to 1"),
  ],
)
def test_what_cannot_be_scored_is_refused(task, prediction, target, message):
  with pytest.raises(InputError, match=message) as e:
    scores(task, prediction, target)
  assert "\n" not in str(e.value)


@pytest.mark.parametrize("kind", KINDS)
def test_headline_figures_exist(kind):
  task = Task(kind, ("a", "b"))
  target = np.array([0, 1, 1]) if task.one_class else np.array([[0, 1], [1, 1], [1, 0]])
  got = scores(task, np.array([[0.2, 0.8], [0.3, 0.7], [0.6, 0.4]]), target)
  assert all(np.isfinite(got[name]) for name in HEADLINE[kind])


def test_ensemble_leaves_out_absent_sensors():
  nan = np.nan
  s1 = np.array([[0.2, 0.8], [nan, nan], [nan, nan], [nan, 1.0]], np.float32)
  s2 = np.array([[0.6, 0.4], [0.1, 0.9], [nan, nan], [0.5, 0.5]], np.float32)
  got = ensemble({"s1": s1, "s2": s2})
  assert got.dtype == np.float32
  np.testing.assert_allclose(got[:2], [[0.4, 0.6], [0.1, 0.9]], rtol=1e-6)
  assert np.isnan(got[2]).all()
  assert np.isnan(got[3, 0]) and got[3, 1] == 0.75  # a fault is not hidden
  with pytest.raises(InputError, match="one shape"):
    ensemble({"s1": s1, "s2": s2[:1]})
  with pytest.raises(InputError, match="no sensors"):
    ensemble({})
