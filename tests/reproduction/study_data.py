"""Made-up scores, for what is done with scores."""

from stablerep_hf.evaluation import EvaluationResult


def result(measure, value, seed=0, encoder="x"):
    """A result by the name that the claims know it by."""
    name, _, variant = measure.partition(", ")
    protocol, metric = name.split(" ")
    return EvaluationResult(
        encoder=encoder,
        protocol=protocol,
        metric=metric,
        variant=variant,
        value=round(value, 5),
        low=round(max(0.0, value - 0.03), 5),
        high=round(min(1.0, value + 0.03), 5),
        interval="bootstrap over test groups",
        n=100,
        dataset="made up",
        revision="1",
        split="test",
        seeds=(seed,),
        chance=None if variant else 0.1,
        settings={"k": 20, "converged": True} if protocol == "knn" else {},
    )


def measured(scores, measures):
    """Setting -> seed -> measure -> result, from setting -> the scores of seeds 0, 1, ... on all measures alike."""
    return {
        setting: {
            seed: {measure: result(measure, value, seed) for measure in measures} for seed, value in enumerate(values)
        }
        for setting, values in scores.items()
    }
