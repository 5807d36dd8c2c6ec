"""Knowledge augmentation: passages, an index, three tiers of sources, answers that cite."""
