"""The task `lmms_eval`: a task of lmms-eval as a task of a study."""
