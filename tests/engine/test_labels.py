"""Labels under the Trainer of transformers: the loss it logs, and the metrics it computes, are those by hand."""

import pytest
import torch
import torch.nn.functional as F
from transformers import Trainer, TrainingArguments

import tokensieve as ts
from tokensieve.errors import RefusedError
from tokensieve_strategies import Norm

from .models import CACHE, IMAGE, batch, generate, llava, patches, prompts, shared
from .reference import Plain, judged, norms

K = 5
BEFORE = ts.Recipe.of(Norm(), K)


class Earliest(ts.Scorer):
    """Keeps the first tokens of every picture, so that its last one leaves."""

    name = "earliest"

    def score(self, tokens):
        return -tokens.ids.double()


INSIDE = ts.Recipe.of(Earliest(), K, at="decoder.2")
LAYOUTS = [[2, IMAGE, 5], [1, IMAGE, IMAGE, 3], [4, IMAGE, 2], [2, IMAGE, 9]]
ANSWERS = ((7, 31, 12), (8, 9), (21, 22, 23, 24, 25), (40,))


class Asked(torch.utils.data.Dataset):
    """Prompts with their answers; the labels are the answers, or all that is no padding."""

    def __init__(self, model, whole=False):
        self.rows = [row.plus(answer) for row, answer in zip(prompts(model, LAYOUTS), ANSWERS, strict=True)]
        self.whole = whole

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, number):
        return number

    def collate(self, numbers):
        inputs = batch([self.rows[number] for number in numbers], "right", room=1)
        labels = torch.full_like(inputs["input_ids"], -100)
        for place, number in enumerate(numbers):
            words = self.rows[number].words
            start = 1 if self.whole else len(words) - len(ANSWERS[number])
            labels[place, start : len(words)] = torch.tensor(words[start:])
        return inputs | {"labels": labels}


def trained(model, data, tmp_path, **settings):
    arguments = {
        "output_dir": str(tmp_path),
        "per_device_train_batch_size": 2,
        "per_device_eval_batch_size": 2,
        "gradient_accumulation_steps": 2,
        "learning_rate": 0.0,
        "max_steps": 1,
        "logging_steps": 1,
        "report_to": [],
        "use_cpu": True,
        "save_strategy": "no",
        "disable_tqdm": True,
        "remove_unused_columns": False,
    }
    return Trainer(
        model=model, args=TrainingArguments(**arguments), train_dataset=data, data_collator=data.collate, **settings
    )


@torch.no_grad()
def chances(model, number, data):
    """The negative log-likelihood of each word of an answer, and the likeliest words, on the hand-pruned sequence."""
    row, answer = data.rows[number], ANSWERS[number]
    context = prompts(model, LAYOUTS)[number]
    assert row.words == (*context.words, *answer)
    kept = judged(model, context, norms, K, patches(model))
    logits = Plain(model).logits(context, kept, answer)[-len(answer) - 1 : -1]
    return F.cross_entropy(logits, torch.tensor(answer), reduction="none"), logits.argmax(dim=-1)


def test_a_loss_of_accumulated_batches_is_that_by_hand(tmp_path):
    """Answers of other lengths in two batches of one step: num_items_in_batch weighs each word alike."""
    model = llava(seed=9)
    data = Asked(model)
    right = torch.cat([chances(model, number, data)[0] for number in range(4)]).mean()
    trainer = trained(model, data, tmp_path)
    with ts.prune(model, BEFORE) as run:
        trainer.train()
    [logged] = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert len(run.prefills) == 2
    assert logged == pytest.approx(float(right), abs=1e-4)


def test_labelled_placeholders_are_refused_where_the_caller_counted_them(tmp_path):
    model = llava(seed=9)
    trainer = trained(model, Asked(model, whole=True), tmp_path)
    with ts.prune(model, BEFORE), pytest.raises(RefusedError, match=r"labelled places leave.*num_items_in_batch"):
        trainer.train()
    # Where nothing leaves, nothing is wrong.
    with ts.prune(model, BEFORE, keep="100%"):
        trainer.train()


def test_a_mean_over_fewer_labels_is_noted():
    model = shared("sdpa")
    data = Asked(model, whole=True)
    with ts.prune(model, BEFORE) as run, torch.no_grad():
        model(**data.collate([0]))
    assert run.latest.notes == ["labels: 11 labelled places left; the loss is the mean over those that stay"]
    with ts.prune(model, BEFORE) as run, torch.no_grad():
        model(**Asked(model).collate([0]))
    assert not run.latest.notes


@pytest.mark.parametrize("whole", [False, True])
@torch.no_grad()
def test_labels_that_are_shifted_already_are_counted_likewise(whole):
    model = shared("sdpa")
    inputs = Asked(model, whole).collate([0, 1])
    shifted = F.pad(inputs["labels"], (0, 1), value=-100)[:, 1:]
    counted = {"shift_labels": shifted, "num_items_in_batch": int((shifted != -100).sum())}
    with ts.prune(model, BEFORE):
        if whole:
            with pytest.raises(RefusedError, match="labelled places leave"):
                model(**inputs, **counted)
        else:
            right = model(**inputs).loss
            torch.testing.assert_close(model(**inputs, **counted).loss, right, atol=1e-5, rtol=1e-5)


def test_labels_that_a_place_predicts_which_left_inside_are_noted():
    """The word behind the picture: the picture's last token may have left two layers before the logits."""
    model = shared("sdpa")
    inputs = batch([row.plus((7,)) for row in prompts(model, [[4, IMAGE, 1]])])
    labels = torch.full_like(inputs["input_ids"], -100)
    labels[0, -1] = 7
    with ts.prune(model, INSIDE) as run, torch.no_grad():
        model(**inputs, labels=labels)
        assert not run.latest.notes
        labels[0, -2] = inputs["input_ids"][0, -2]
        model(**inputs, labels=labels)
        assert [note.startswith("labels: 1 are predicted by places that left") for note in run.latest.notes] == [True]


def test_metrics_of_the_trainer_are_those_by_hand(tmp_path):
    """What a metric slices by the places of the labels is restored to their length first."""
    model = llava(seed=9)
    data = Asked(model)
    right = [chances(model, number, data)[1] == torch.tensor(answer) for number, answer in enumerate(ANSWERS)]
    seen = {}

    def accuracy(prediction):
        guesses, labels = prediction.predictions[:, :-1], prediction.label_ids[:, 1:]
        seen["right"] = [list((g == a)[a != -100]) for g, a in zip(guesses, labels, strict=True)]
        return {}

    with ts.prune(model, BEFORE) as run:
        trainer = trained(
            model,
            data,
            tmp_path,
            eval_dataset=data,
            compute_metrics=accuracy,
            preprocess_logits_for_metrics=lambda logits, labels: run.restore(logits).argmax(dim=-1),
        )
        trainer.evaluate(ignore_keys=[CACHE, "image_hidden_states", "image_outputs"])
    assert seen["right"] == [list(own) for own in right]


@pytest.mark.parametrize("call", ["generate", "forward"])
def test_a_prompt_that_ends_with_an_image(call):
    """The next word is read at the last place: it must have been through all layers."""
    model = shared("sdpa")
    rows = prompts(model, [[3, IMAGE]])
    with ts.prune(model, INSIDE), pytest.raises(RefusedError, match="put text after the image"), torch.no_grad():
        generate(model, rows) if call == "generate" else model(**batch(rows))
    with ts.prune(model, INSIDE, keep="100%"), torch.no_grad():
        assert torch.equal(generate(model, rows, 3)[0], generate(model, rows, 3)[0])
    kept = judged(model, rows[0], norms, K, patches(model))
    right = Plain(model).greedy(rows[0], kept, 3)[0]
    with ts.prune(model, BEFORE):
        assert generate(model, rows, 3)[0][0].tolist() == right
