"""Large-sparse against small-dense: the study of Zhu & Gupta (arXiv:1710.01878) on data that two cores can train."""
