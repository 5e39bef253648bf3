"""What rows are labelled with: labels, entities, answers, texts; read, checked, counted, learnt."""
