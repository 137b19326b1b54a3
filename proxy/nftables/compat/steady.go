package compat

// attempts is how often Steady reads.
const attempts = 5

// Steady calls read, which lists what nftables has in the namespace of the calling thread, and calls it again if somebody changed nftables meanwhile: the
// kernel passes over some of a long list from which something goes while it is read. Where that happens time and again, the last result has to do, and may
// have gaps.
func Steady(read func() error) error {
	for range attempts {
		before, err := Generation()
		if err != nil {
			return err
		}
		if err := read(); err != nil {
			return err
		}
		if after, err := Generation(); err != nil || after == before {
			return err
		}
	}
	return nil
}
