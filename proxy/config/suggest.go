package config

import "strings"

// nearest returns the candidate that word was most likely meant to be, or "" if none is close: at most a third of its
// letters differ, or only letter case and dashes do. The first of equally close candidates wins.
func nearest(word string, candidates []string) string {
	best, bestDistance := "", len(word)/3+1
	for _, c := range candidates {
		d := distance(plain(word), plain(c))
		if d < bestDistance {
			best, bestDistance = c, d
		}
	}
	return best
}

// plain drops what people mix up in names: letter case, dashes and underscores.
func plain(s string) string {
	return strings.NewReplacer("-", "", "_", "").Replace(strings.ToLower(s))
}

// distance is the Levenshtein distance in bytes.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			substitute := diagonal
			if a[i] != b[j] {
				substitute++
			}
			diagonal = row[j+1]
			row[j+1] = min(substitute, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}

// didYouMean returns `; did you mean "x"?` for a near miss, else "".
func didYouMean(word string, candidates []string) string {
	if c := nearest(word, candidates); c != "" {
		return `; did you mean "` + c + `"?`
	}
	return ""
}
