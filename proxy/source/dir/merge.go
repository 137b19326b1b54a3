package dir

import (
	"maps"
	"slices"

	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// content is what one file holds: objects that are in use, and what is wrong with the file.
type content struct {
	entries  []entry
	problems []Problem
}

// advance returns the content after the file was read again. A broken file deletes nothing: an object that the new text does
// not give stays as it last was, for the broken part may be that object.
func advance(last, read content) content {
	if !broken(read.problems) {
		return read
	}
	have := make(map[key]bool, len(read.entries))
	for _, e := range read.entries {
		have[e.key] = true
	}
	entries := slices.Clone(read.entries)
	for _, e := range last.entries {
		if !have[e.key] {
			entries = append(entries, e)
		}
	}
	return content{entries, read.problems}
}

// merge returns the objects of all files, and all problems by file name. If an object is defined twice, the file that comes
// first by name wins, and in one file the earlier document.
func merge(files map[string]content) (map[key]metav1.Object, []Problem) {
	objects := map[key]metav1.Object{}
	winners := map[key]string{}
	var problems []Problem
	for _, file := range slices.Sorted(maps.Keys(files)) {
		var twice []Problem
		for _, e := range files[file].entries {
			if w, ok := winners[e.key]; ok {
				twice = append(twice, Problem{
					File: file, Line: e.line, Document: e.document, Object: e.key.String(), Severity: Error,
					Reason: "is not used, because " + w + " defines it too; remove one of them",
				})
				continue
			}
			winners[e.key] = e.place(file)
			objects[e.key] = e.object
		}
		problems = append(problems, bounded(file, slices.Concat(files[file].problems, twice))...)
	}
	return objects, problems
}

// diff returns what leads from one to the other, sorted: first what is set, then what is deleted.
func diff(before, after map[key]metav1.Object) []change {
	var set, deleted []change
	for k, o := range after {
		if last, ok := before[k]; !ok || last != o && !equality.Semantic.DeepEqual(last, o) {
			set = append(set, change{k, o})
		}
	}
	for k := range before {
		if _, ok := after[k]; !ok {
			deleted = append(deleted, change{key: k})
		}
	}
	sortChanges(set)
	sortChanges(deleted)
	return append(set, deleted...)
}
