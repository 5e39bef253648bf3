"""Sort tickets into queues, with ftkit."""

from typing import Any

import ftkit


def main(
    folder: str, checkpoint: str, output: str, epochs: int = 3, precision: Any = "auto"
) -> dict[str, float]:
    """Fine-tune on a folder of tickets, save, score on its test rows, answer a new one."""
    data = ftkit.load_data(folder, columns={"label": "queue"})
    learn = ftkit.classification_learner(data, checkpoint, precision=precision)
    learn.fit_one_cycle(epochs, learn.lr)

    model = ftkit.load_model(ftkit.save(learn, output))
    print(model.predict(["My card was charged twice"])[0])
    return model.evaluate(data["test"]).scores
