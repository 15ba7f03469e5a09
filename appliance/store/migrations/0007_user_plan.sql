-- The plan of a user, by which the settings give other limits than the box's own.

ALTER TABLE users ADD COLUMN plan TEXT NOT NULL DEFAULT 'free';
