package dir

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/klog/v2"

	"turnout/proxy/source"
)

// Options are the settings of a Source.
type Options struct {
	// NodeName is the name of the own Node object, in its exact spelling. No other Node is delivered.
	NodeName string
	// Settle is how long the folder must have been quiet before it is read, so that files which are written together are read
	// together. If it is never quiet, it is read after ten times that, but for files that are not quiet themselves. 0 means 100 ms.
	Settle time.Duration
	// OnProblems, if not nil, is given all present problems whenever they change, from one goroutine. The slice is the
	// callee's. It is not called as long as there was never a problem.
	OnProblems func([]Problem)
}

const (
	defaultSettle = 100 * time.Millisecond
	// pollPeriod is how often the folder is read if the kernel cannot tell of changes.
	pollPeriod = 2 * time.Second
	// auditPeriod is how often it is looked through all the same: inotify does not tell of changes behind a symbolic link, nor of
	// those made by other machines in a network file system.
	auditPeriod = 30 * time.Second
	// emptyGrace is how long a file that had objects must have been empty before they are deleted.
	emptyGrace = time.Second
)

// Source delivers what is in a folder and follows its changes.
type Source struct {
	opts   Options
	folder folder
	watch  *watch
	poll   time.Duration
	audit  time.Duration

	delivered map[key]metav1.Object
	problems  []Problem
	synced    bool
	watchErr  error // why the kernel does not tell of changes; nil if it does
}

var _ source.Source = (*Source)(nil)

// New returns a Source for the folder, which must exist and be readable: it is never created, for a misspelt path would then
// look like a cluster without Services.
func New(dir string, opts Options) (*Source, error) {
	path, err := check(dir)
	if err != nil {
		return nil, err
	}
	opts.Settle = cmp.Or(opts.Settle, defaultSettle)
	return &Source{
		opts: opts, folder: folder{dir: path, node: opts.NodeName, grace: emptyGrace}, watch: newWatch(path),
		poll: pollPeriod, audit: auditPeriod,
	}, nil
}

// Load reads the folder once. It returns what a proxy on the named node would be given, and all problems; the error is for a
// folder that cannot be read at all.
func Load(dir, node string) (*Objects, []Problem, error) {
	path, err := check(dir)
	if err != nil {
		return nil, nil, err
	}
	f := folder{dir: path, node: node}
	if err := f.refresh(context.Background(), pending{all: true}.interest); err != nil {
		return nil, nil, fmt.Errorf("read --manifests=%s: %w", dir, err)
	}
	merged, problems := merge(f.contents())
	return objectsOf(merged), problems, nil
}

// check returns the absolute path of a folder that can be listed.
func check(dir string) (string, error) {
	if dir == "" {
		return "", errors.New(`--manifests="": no folder is named; give the path of a folder with YAML or JSON files`)
	}
	_, err := os.ReadDir(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "", fmt.Errorf("--manifests=%s: the folder does not exist; create it or correct the path: %w", dir, err)
	case errors.Is(err, fs.ErrPermission):
		return "", fmt.Errorf("--manifests=%s: the folder may not be read; give this process permission to list it: %w", dir, err)
	case err != nil:
		return "", fmt.Errorf("--manifests=%s: want a folder with YAML or JSON files: %w", dir, err)
	}
	path, err := filepath.Abs(dir)
	if err != nil {
		return "", fmt.Errorf("--manifests=%s: %w", dir, err)
	}
	return path, nil
}

// Run delivers the folder to sink and follows its changes until ctx ends; it returns nil then, and never otherwise. A broken
// file leaves the objects that it gave before in place, and so does a folder that is removed. It may be called once.
func (s *Source) Run(ctx context.Context, sink source.Sink) error {
	defer s.watch.disarm()
	s.arm(ctx)
	s.pass(ctx, sink, pending{all: true})
	for ctx.Err() == nil {
		audit := s.wait(ctx)
		now := time.Now()
		p := s.watch.take(now.Add(-s.opts.Settle), now.Add(-s.audit))
		if p.moved || audit {
			s.arm(ctx)
			p.all = p.all || p.moved
		}
		s.pass(ctx, sink, p)
	}
	return nil
}

// wait waits for a change to settle, or for the time of an audit, which also takes a new watch: a link in the middle of the path
// may lead elsewhere now.
func (s *Source) wait(ctx context.Context) (audit bool) {
	timer := time.NewTimer(s.period())
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	case <-s.watch.wake:
		s.settle(ctx)
		return false
	}
}

// period is how long to wait at most for the kernel to tell of a change.
func (s *Source) period() time.Duration {
	period := s.audit
	if s.watchErr != nil {
		period = s.poll
	}
	if s.folder.held {
		period = min(period, s.folder.grace)
	}
	return period
}

// settle waits until the folder was quiet for a while.
func (s *Source) settle(ctx context.Context) {
	quiet, limit := time.NewTimer(s.opts.Settle), time.NewTimer(10*s.opts.Settle)
	defer quiet.Stop()
	defer limit.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-limit.C:
			return
		case <-quiet.C:
			return
		case <-s.watch.wake:
			quiet.Reset(s.opts.Settle)
		}
	}
}

// arm watches the folder that is now at the path. If it cannot, the folder is polled.
func (s *Source) arm(ctx context.Context) {
	err := s.watch.arm()
	if err != nil && s.watchErr == nil && !errors.Is(err, fs.ErrNotExist) {
		klog.FromContext(ctx).Error(err, "Cannot be told of changes in the folder, so it is polled; raise the sysctls "+
			"fs.inotify.max_user_instances and fs.inotify.max_user_watches", "dir", s.folder.dir, "period", s.poll)
	}
	s.watchErr = err
}

// pass reads what changed and delivers the difference.
func (s *Source) pass(ctx context.Context, sink source.Sink, p pending) {
	err := s.folder.refresh(ctx, p.interest)
	if ctx.Err() != nil {
		return
	}
	merged, problems := merge(s.folder.contents())
	if err != nil {
		problems = slices.Insert(problems, 0, Problem{Severity: Error, Reason: fmt.Sprintf(
			"the folder cannot be read: %v; what it last held stays in use. To remove all objects, empty the folder", err)})
	}
	s.report(ctx, problems)
	changes := diff(s.delivered, merged)
	for _, c := range changes {
		c.deliver(sink)
	}
	s.delivered = merged
	if len(changes) > 0 {
		klog.FromContext(ctx).V(2).Info("Delivered changes of the folder", "dir", s.folder.dir, "changes", len(changes),
			"objects", len(merged), "files", len(s.folder.files))
	}
	if !s.synced && err == nil {
		s.synced = true
		sink.Synced()
	}
}

// report logs problems that are new and tells of a set that changed.
func (s *Source) report(ctx context.Context, problems []Problem) {
	if slices.Equal(problems, s.problems) {
		return
	}
	logger := klog.FromContext(ctx)
	known := make(map[Problem]bool, len(s.problems))
	for _, p := range s.problems {
		known[p] = true
	}
	for _, p := range problems {
		switch {
		case known[p]:
		case p.Severity == Error:
			logger.Error(nil, "Manifest is not loaded, what it last gave stays in use", "dir", s.folder.dir, "problem", p.String())
		default:
			logger.Info("Manifest has a doubtful part", "dir", s.folder.dir, "problem", p.String())
		}
	}
	if len(problems) == 0 {
		logger.Info("All manifests are in order again", "dir", s.folder.dir)
	}
	s.problems = problems
	if s.opts.OnProblems != nil {
		s.opts.OnProblems(slices.Clone(problems))
	}
}
