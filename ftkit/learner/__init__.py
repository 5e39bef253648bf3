"""The Learner: the only place where data and model meet, and where fastai trains."""
