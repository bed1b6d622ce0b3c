"""scikit-learn's own checks of the voting classifier."""

import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.naive_bayes import GaussianNB
from sklearn.utils.estimator_checks import parametrize_with_checks

from ensemble_kit.ensemble import WalkForwardVotingClassifier
from ensemble_kit.validation import WalkForwardSplit

MEMBERS = [("lr", LogisticRegression()), ("nb", GaussianNB())]


def expected_failures(_):
    return {"check_sample_weight_equivalence_on_dense_data": "its folds train on rows after their test rows"}


# The few rows of the checks, some of them sorted by class, make folds that teach or test one
# class only, and blobs that no temperature can calibrate: all three are said in a warning.
@pytest.mark.filterwarnings("ignore:Training rows before:UserWarning")
@pytest.mark.filterwarnings("ignore:no row of class:UserWarning")
@pytest.mark.filterwarnings("ignore:temperature on its bound:UserWarning")
@parametrize_with_checks(
    [WalkForwardVotingClassifier(MEMBERS, cv=WalkForwardSplit(2, purge=0))],
    expected_failed_checks=expected_failures,
)
def test_scikit_learns_checks(estimator, check):
    check(estimator)
