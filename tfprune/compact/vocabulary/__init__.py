"""Trim the vocabulary of a language model: tokenizer, token embedding and scores, exact on the remaining tokens.

`read_vocabulary` reads a tokenizer as a `TokenVocabulary`: byte-level pairs and word pieces itself, and the file of
SentencePiece by `sentencepiece_model`, which also writes it. `smaller_tables` builds the model with fewer rows, and
`trim_vocabulary` puts both together and checks them.
"""
