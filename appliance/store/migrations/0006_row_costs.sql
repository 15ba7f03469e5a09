-- What a step with more rows costs, by which an engine decides whether drafting tokens pays:
-- a JSON array of times, the first one being 1.

ALTER TABLE model_probes ADD COLUMN row_costs TEXT NOT NULL DEFAULT '[]';
