"""The same losses on language models: log-probabilities, data, a trainer, and two diagnoses.

Everything here needs the extra `llm` (`pip install "toyalign[llm]"`): transformers, accelerate,
peft and datasets.
"""
