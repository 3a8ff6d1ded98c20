"""What any algorithm uses on FaceAlign-v0: vectorised environment, replay buffer, extractor, callbacks, rollout."""
