"""Mutants chosen by hand, for ``mutants.py``: each breaks a promise that a docstring makes.

Eight of them once survived all tests, one was never truly tried, and fourteen were not run. Each
is (file, old, new); ``old`` stands in the file exactly once.
"""

SURVIVED_ONCE = [
    # the loss of an epoch as the mean of its batches, not of its targets
    (
        "mmlib/train/log.py",
        "self.run.loss + loss, self.run.count + count",
        "self.run.loss + loss / max(count, 1e-8), self.run.count + 1",
    ),
    # no standard errors over chance
    ("mmlib/leaks/score.py", "majority + ERRORS * error), majority", "majority), majority"),
    # rows of one group counted as independent witnesses
    ("mmlib/leaks/score.py", "/ len(np.unique(task.groups[rows])))", "/ len(rows))"),
    # the same noise for every clip
    ("mmlib/data/augment.py", "_noise()[start : start + len(time)]", "_noise()[: len(time)]"),
    # sounds cut to whole numbers, not rounded
    ("mmlib/data/store.py", "(clip * 32767).round()", "(clip * 32767)"),
    # small probabilities of a row's windows lifted
    (
        "mmlib/train/windows.py",
        "return mean.clamp(min=1e-300).log()",
        "return mean.clamp(min=1e-3).log()",
    ),
    # no dropout on the MLP's branch
    (
        "mmlib/layers/transformer.py",
        "self.dropout(self.mlp(self.norm2(x)))",
        "self.mlp(self.norm2(x))",
    ),
    # bins of the calibration error closed on the left
    (
        "mmlib/metrics/calibration.py",
        "(confidence * bins).ceil().long().clamp(1, bins) - 1",
        "(confidence * bins).long().clamp(0, bins - 1)",
    ),
    # an epoch that is only as good as the best replaces it
    ("mmlib/train/run.py", "value > self.best_value", "value >= self.best_value"),
]

NOT_RUN = [
    # a process that stands in with another's batch counts it
    ("mmlib/train/loop.py", "output.count * weight", "output.count"),
    # a checkpoint within the epoch after its last batch, too
    ("mmlib/train/loop.py", "if due and run.batch < len(train):", "if due:"),
    # a run may be resumed with another number of processes
    ("mmlib/train/run.py", '"processes": distributed.world(),', '"processes": 1,'),
    # the same dropout in every epoch
    ("mmlib/train/loop.py", "(seed * 1_000_003 + epoch)", "(seed * 1_000_003)"),
    # the Perceiver's memory is not normalised
    ("mmlib/fusion/tokens.py", "self.norm_memory(memory))", "memory)"),
    # FiLM scales by the scale, not by one plus it
    ("mmlib/fusion/tokens.py", "tokens * (1 + scale) + shift", "tokens * scale + shift"),
    # an absent modality is a factor of 0
    (
        "mmlib/fusion/products.py",
        ".masked_fill(~present[..., None], 1)",
        ".masked_fill(~present[..., None], 0)",
    ),
    # FiLM conditions a modality on itself
    (
        "mmlib/fusion/tokens.py",
        "torch.cat([pooled[:, :i], pooled[:, i + 1 :]], dim=1)",
        "pooled[:, : pooled.shape[1] - 1]",
    ),
    # words attend to the padding of their source
    (
        "mmlib/heads/language.py",
        "visible, features.tokens, source_mask)",
        "visible, features.tokens)",
    ),
    # a text of exactly the longest length is called cut
    ("mmlib/data/store.py", "len(row) > MAX_TOKENS", "len(row) >= MAX_TOKENS"),
    # the latest split of a value, not its earliest
    (
        "mmlib/leaks/splits.py",
        "= min(first.get(value, len(order)), ",
        "= max(first.get(value, 0), ",
    ),
    # the mistakes that the model is least sure of
    ("mmlib/report/result.py", "sure.argsort(descending=True)", "sure.argsort()"),
    # the fusion that may interact trains with missing modalities
    ("mmlib/report/make.py", "modality_dropout=0.0", "modality_dropout=0.2"),
    # the head does not start from the training prior
    (
        "mmlib/recipes/plan.py",
        'ClassifyHead(dim, len(spec["prior"]), torch.tensor(spec["prior"]))',
        'ClassifyHead(dim, len(spec["prior"]))',
    ),
]

NAMED = SURVIVED_ONCE + NOT_RUN
